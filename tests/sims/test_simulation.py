"""The simulator: hand-worked runs, the live queue's decisions, the live window's signals."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from policies.baselines import RulePolicy, StaticPolicy
from policies.params import RuleParams
from policies.rule import DispatchRule, Waiting
from profiler.patterns import PatternTable
from profiler.shapes import Shape
from profiler.signals import Window
from sims.engine import state
from sims.evaluation.static_sweep import sweep_static
from sims.reference import reference_service
from sims.service import Disturbances, Service
from sims.simulation import Simulation, simulate
from sims.traces import Trace, bursty, poisson, surge

RULE = RuleParams("rule")


def trace_of(*arrivals_ms: float, lengths: tuple[int, ...] | None = None) -> Trace:
    sizes = np.array(lengths or [16] * len(arrivals_ms), np.int32)
    return Trace(np.array(arrivals_ms) / 1e3, sizes, "hand")


def service(**changes: object) -> Service:
    """One worker, one plan: 2 ms + 2 ms per row at 16, twice the latter at 32."""
    rows = np.arange(1, 5)[None, :, None]
    cost_ms = 2.0 + 2.0 * rows * np.array([1.0, 2.0])[None, None, :]
    return replace(Service(cost_ms, np.array([16.0, 32.0]), 20.0, 1), **changes)  # type: ignore[arg-type]


def run(service: Service, trace: Trace, params: RuleParams) -> Simulation:
    simulation = Simulation(service, trace)
    simulation.advance(math.inf, params)
    assert simulation.done
    return simulation


def test_one_at_a_time_worked_by_hand() -> None:
    got = run(service(), trace_of(0, 1, 10), RuleParams.static(0, 1))
    assert got.end_ms.tolist() == [4.0, 8.0, 14.0]
    assert got.result().met == 3
    assert got.now_ms == 14.0


def test_batches_overhead_and_hidden_costs_worked_by_hand() -> None:
    disturbed = service(hidden=Disturbances(np.array([1.0, 3.0])), overhead_ms=0.5)
    got = run(disturbed, trace_of(0, 1, 2), RuleParams.static(0, 4))
    # 0 runs alone till 4.5; then two rows, 6 ms × 3 + 0.5.
    assert got.end_ms.tolist() == [4.5, 23.0, 23.0]
    result = got.result()
    assert (result.served, result.met, result.refused) == (3, 1, 0)
    assert (result.mean_rows, result.padded_ratio) == (1.5, 0.0)


def test_the_hopeless_is_refused_the_moment_it_is_looked_at() -> None:
    slow = service(true_ms=service().cost_ms * 5.0)  # 20 ms instead of 4
    got = run(slow, trace_of(0, 1, 2), RuleParams.static(0, 1))
    assert got.outcome.tolist() == [state.SERVED, state.DROPPED, state.DROPPED]
    assert got.end_ms.tolist() == [20.0, 20.0, 20.0]  # 1 ms and 2 ms are left at 20 ms


def test_a_hold_lasts_until_its_wait_or_a_full_batch() -> None:
    params = RuleParams.static(0, 2, wait_ms=5.0)
    assert run(service(), trace_of(0, 30), params).end_ms.tolist() == [9.0, 39.0]
    assert run(service(), trace_of(0, 3), params).end_ms.tolist() == [9.0, 9.0]


def test_padding_is_counted() -> None:
    mixed = trace_of(0, 0, lengths=(8, 32))
    got = run(service(), mixed, RuleParams.static(0, 4)).result()
    assert got.padded_ratio == pytest.approx(1 - 40 / 64)


def live(service: Service, trace: Trace, params: RuleParams) -> tuple[list[float], list[bool]]:
    """The same service with the live dispatcher's own objects, one event at a time."""
    rule = DispatchRule(
        service.cost_ms, service.lengths, workers=service.workers, params=params, tier=service.tier
    )
    waiting, owners = Waiting(), list[int]()
    free = [0.0] * service.workers
    arrivals = (trace.arrivals_s * 1e3).tolist()
    end = [math.inf] * len(arrivals)
    refused = [False] * len(arrivals)
    buckets = np.searchsorted(service.lengths, trace.lengths)
    now, following, batches, rate, rate_at, hold = 0.0, 0, 0, 0.0, 0.0, -math.inf
    while following < len(arrivals) or owners:
        while following < len(arrivals) and arrivals[following] <= now:
            at = arrivals[following]
            rate = rate * np.exp((rate_at - at) / 40.0) + 1 / 40.0
            rate_at, hold = at, -math.inf
            waiting.append(at + service.slo_ms, at, int(buckets[following]))
            owners.append(following)
            following += 1
        worker = free.index(min(free))
        if owners and free[worker] <= now and now >= hold:
            got = rule.pick(now, waiting, rate * np.exp((rate_at - now) / 40.0))
            for k in got.dropped:
                end[owners[k]], refused[owners[k]] = now, True
            if got.members:
                bucket = max(int(buckets[owners[k]]) for k in got.members)
                took = service.cost_ms[got.plan, len(got.members) - 1, bucket]
                took *= service.hidden.factor[batches % service.hidden.factor.size]
                batches += 1
                free[worker] = now + took + service.overhead_ms
                for k in got.members:
                    end[owners[k]] = free[worker]
            hold = -math.inf if got.members else got.wake_ms
            gone = {*got.members, *got.dropped}
            waiting.remove(tuple(gone))
            owners = [owner for k, owner in enumerate(owners) if k not in gone]
            if gone:
                continue
        coming = [arrivals[following]] if following < len(arrivals) else []
        if owners:
            coming.append(max(min(free), hold))
        if not coming:
            break
        now = max(now, min(coming))
    return end, refused


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "params", [RULE, RuleParams.static(2, 4, 5.0), RuleParams("hold", wait_ms=4.0, delta=0.0)]
)
def test_the_simulator_decides_as_the_live_queue_does(params: RuleParams, seed: int) -> None:
    one = reference_service(workers=1 + seed, seed=seed)
    if seed % 2:
        one = replace(one, tier=np.array([0, 1, 2]))
    trace = bursty(150.0 * (1 + seed), 2.0, cv2=5.0, seed=seed)
    end, refused = live(one, trace, params)
    got = run(one, trace, params)
    np.testing.assert_allclose(got.end_ms, end, rtol=1e-12)
    np.testing.assert_array_equal(got.outcome == state.DROPPED, refused)


def test_every_request_ends_once_and_nothing_runs_on_a_busy_worker() -> None:
    one, trace = reference_service(), surge(100, 900, 4, seed=3)
    got = run(one, trace, RULE)
    result = got.result()
    assert result.served + result.refused == result.offered == len(trace)
    assert (got.end_ms >= trace.arrivals_s * 1e3).all()
    log = got.batches()
    assert log["rows"].sum() == result.served
    running = sum(
        ((log["start_ms"] <= t) & (t < log["finish_ms"])).astype(int).sum() for t in log["start_ms"]
    ) / len(log["start_ms"])
    assert running <= one.workers
    busiest = max(
        int(((log["start_ms"] <= t) & (t < log["finish_ms"])).sum()) for t in log["start_ms"]
    )
    assert busiest == one.workers


def test_in_steps_or_at_once_is_the_same() -> None:
    one, trace = reference_service(), poisson(500, 2, seed=1)
    whole = run(one, trace, RULE)
    stepped = Simulation(one, trace)
    for t in range(37, 4000, 37):
        stepped.advance(float(t), RULE)
    np.testing.assert_allclose(stepped.end_ms, whole.end_ms, rtol=1e-12)


def test_signals_are_what_the_live_window_shows() -> None:
    base, trace = reference_service(), surge(60, 700, 3, seed=2)
    pattern = np.random.default_rng(0).random((*base.cost_ms.shape[1:], 4))
    one = replace(base, pattern=pattern)
    simulation = Simulation(one, trace)
    assert simulation.signals().balance == 0.0  # no batch yet
    for until_ms in (100.0, 900.0, 1400.0, 2900.0):
        simulation.advance(until_ms, RULE)
        assert simulation.signals().balance in pattern[..., 0]
        seen, expected = asdict(simulation.signals()), asdict(window(simulation, one, trace))
        for name, value in expected.items():
            # Latencies come from a histogram with bins of 1/16 of the SLO.
            near = one.slo_ms / 16 if name in ("p50_ms", "p99_ms") else 1e-6
            assert seen[name] == pytest.approx(value, rel=1e-6, abs=near), (until_ms, name)


def window(simulation: Simulation, one: Service, trace: Trace) -> object:
    """A live window told of everything that had happened by now, in order."""
    now_s = simulation.now_ms / 1e3
    clock = [0.0]
    live = Window(slo_ms=one.slo_ms, workers=one.workers, clock=lambda: clock[0])
    if one.pattern is not None:
        live.pattern = PatternTable(one.pattern, tuple(one.lengths.astype(int).tolist()))
    events: list[tuple[float, int, tuple[object, ...]]] = []
    for i, at in enumerate(trace.arrivals_s):
        events.append((float(at), 0, (int(trace.lengths[i]),)))
        if simulation.outcome[i] == state.DROPPED:
            events.append((float(simulation.end_ms[i]) / 1e3, 1, ()))
        if simulation.outcome[i] == state.SERVED:
            latency = float(simulation.end_ms[i] - at * 1e3)
            events.append((float(simulation.end_ms[i]) / 1e3, 2, (latency, latency <= one.slo_ms)))
    log = simulation.batches()
    for k in range(len(log["start_ms"])):
        shape = Shape(int(log["rows"][k]), int(one.lengths[log["bucket"][k]]))
        elapsed = float(log["finish_ms"][k] - log["start_ms"][k])
        told = ("plan", shape, elapsed, float(log["expected_ms"][k]), int(log["tokens"][k]))
        events.append((float(log["finish_ms"][k]) / 1e3, 3, told))
    calls = (live.arrived, live.refused, live.ended, live.record_batch)
    for at_s, kind, arguments in sorted(events, key=lambda e: (e[0], e[1])):
        if at_s <= now_s:
            clock[0] = at_s
            calls[kind](*arguments)  # type: ignore[operator]
    clock[0] = now_s
    waiting = (simulation.outcome == state.WAITING) & (trace.arrivals_s <= now_s)
    slack = trace.arrivals_s[waiting] * 1e3 + one.slo_ms - simulation.now_ms
    busy = int(
        ((log["start_ms"] <= simulation.now_ms) & (log["finish_ms"] > simulation.now_ms)).sum()
    )
    head = float(slack.min()) if slack.size else math.inf
    return live.snapshot(queue=int(waiting.sum()), head_slack_ms=head, busy=busy)


def test_policies_and_settings_that_say_the_same_do_the_same() -> None:
    one, trace = reference_service(), surge(60, 600, 3, seed=0)
    assert simulate(one, trace, RulePolicy()) == simulate(one, trace, RuleParams("default"))
    fixed = RuleParams.static(1, 4, 2.0)
    assert simulate(one, trace, StaticPolicy(fixed)) == simulate(one, trace, fixed)


def test_a_quiet_and_an_empty_result_hold_no_nan() -> None:
    hopeless = service(slo_ms=1.0)
    result = simulate(hopeless, trace_of(0, 5), RULE)
    assert (result.served, result.refused, result.met_ratio) == (0, 2, 0.0)
    assert all(not math.isnan(v) for v in asdict(result).values())
    untouched = Simulation(service(), trace_of(5.0)).result()
    assert (untouched.offered, untouched.met_ratio, untouched.goodput_per_s) == (0, 0.0, 0.0)


def test_utility_weighs_answers_by_the_accuracy_of_their_plan() -> None:
    two = Service(
        np.stack([np.full((4, 1), 10.0), np.full((4, 1), 4.0)]), np.array([16.0]), 9.0, 1,
        tier=np.array([0, 1]), accuracy=np.array([1.0, 0.5]),
    )  # fmt: skip
    assert simulate(two, trace_of(0, 100), RULE).utility == 0.5


def test_the_sweep_finds_the_best_of_its_grid() -> None:
    one, trace = reference_service(), surge(60, 480, 4, seed=0)
    both = {"2x1": one, "1x2": replace(one, workers=1, cost_ms=one.cost_ms / 1.5)}
    runs = sweep_static(trace, both, caps=(1, 4), waits_ms=(0.0, 5.0))
    assert len(runs) == 2 * 3 * (1 + 4)
    utilities = [r.result.utility for r in runs]
    assert utilities == sorted(utilities, reverse=True)
    assert {r.service for r in runs} == {"2x1", "1x2"}
    best = runs[0]
    assert simulate(both[best.service], trace, best.params) == best.result
    with pytest.raises(ValueError, match="services must name at least one service, got none"):
        sweep_static(trace, {})


def test_under_overload_the_rule_beats_every_static_setting_in_order_of_arrival() -> None:
    """The product's case, three seeds; margin and figures in decision 0005."""
    for seed in range(3):
        one, trace = reference_service(seed=seed), poisson(600, 4, seed=seed)
        best = sweep_static(trace, {"2x1": one})[0]
        assert simulate(one, trace, RULE).met >= 1.1 * best.result.met


def test_overload_does_not_become_collapse() -> None:
    one = reference_service()
    peak = max(simulate(one, poisson(r, 4, seed=0), RULE).goodput_per_s for r in (500, 600, 700))
    assert simulate(one, poisson(2000, 4, seed=0), RULE).goodput_per_s >= 0.8 * peak


def test_what_is_asked_of_a_simulation_must_make_sense() -> None:
    with pytest.raises(ValueError, match="tick_ms must be finite and greater than 0, got 0"):
        simulate(service(), trace_of(0), RulePolicy(), tick_ms=0)
    simulation = Simulation(service(), trace_of(0))
    simulation.advance(5.0, RULE)
    for until_ms in (4.0, math.nan):
        with pytest.raises(ValueError, match=r"until_ms must be at least now_ms \(5\.0\), got"):
            simulation.advance(until_ms, RULE)


def test_a_run_says_how_it_went() -> None:
    simulation = Simulation(service(workers=2), trace_of(0, 0, 50))
    assert (simulation.now_ms, simulation.offered, simulation.done) == (0.0, 0, False)
    simulation.advance(1.0, RuleParams.static(0, 1))
    assert (simulation.now_ms, simulation.offered, simulation.done) == (1.0, 2, False)
    assert simulation.utility_sum == 2.0  # counted when a batch starts
    simulation.advance(10.0, RuleParams.static(0, 1))
    assert not simulation.done  # one is still to come
    simulation.advance(math.inf, RuleParams.static(0, 1))
    assert simulation.done
    assert simulation.busy_ms.tolist() == [8.0, 4.0]
    assert simulation.switches == 0
    log = simulation.batches()
    assert log["start_ms"].tolist() == [0.0, 0.0, 50.0]
    assert log["worker"].tolist() == [0, 1, 0]
    assert (log["rows"].tolist(), log["tokens"].tolist()) == ([1, 1, 1], [16.0, 16.0, 16.0])
