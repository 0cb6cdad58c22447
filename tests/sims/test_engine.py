"""The engine's machinery by hand: charges, losses, uneven workers, what is hidden and learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.params import RuleParams
from policies.presets import PRESETS
from policies.rivals import BentoML, Clipper, Clockwork, DrainAware, Proteus, SlackFit
from sims.engine import advance as engine
from sims.engine.episodes import Piece, begin
from sims.engine.inputs import make_inputs
from sims.engine.state import DROPPED, SERVED, full_log, make_state
from sims.service import Disturbances, Service, Switching, Units, noise
from sims.simulation import Simulation
from sims.traces import Trace, bursty, poisson

ONE = np.ones(1, np.int32)
ALONE = RuleParams.static(0, 1)
"""One at a time on plan 0, refusing only the hopeless."""


def at(*arrivals_ms: float) -> Trace:
    return Trace(np.array(arrivals_ms) / 1e3, np.ones(len(arrivals_ms), np.int32), "hand")


def service(*plans_ms: float, workers: int = 1, **changes: Any) -> Service:
    """Plans that cost so much at any of four rows; every request has one token."""
    cost_ms = np.repeat(np.array(plans_ms or (10.0,))[:, None, None], 4, axis=1)
    return Service(cost_ms, np.ones(1), 1000.0, workers, **changes)


def units(workers: int, **changes: Any) -> Units:
    """Workers that differ in what is said."""
    return replace(Units.alike(workers), **{k: np.array(v) for k, v in changes.items()})


def run(one: Service, trace: Trace, setting: Any = ALONE) -> Simulation:
    simulation = Simulation(one, trace)
    simulation.advance(math.inf, setting)
    assert simulation.done
    return simulation


def took(one: Service, plans: Sequence[int], every_ms: float = 50.0) -> tuple[Simulation, Any]:
    """One request every 50 ms, each on the plan named: how long each took."""
    trace = at(*(every_ms * k for k in range(len(plans))))
    simulation = Simulation(one, trace)
    for k, plan in enumerate(plans):
        simulation.advance(every_ms * (k + 1) - 1.0, RuleParams.static(plan, 1))
    assert simulation.done
    assert simulation.ran.tolist() == list(plans)
    return simulation, (simulation.end_ms - trace.arrivals_s * 1e3).round(9).tolist()


# -- changing the plan --------------------------------------------------------------------------


def test_a_switch_is_charged_when_the_plan_changes_and_the_first_is_free() -> None:
    one = service(10.0, 4.0, switching=Switching(switch_ms=3.0))
    simulation, ms = took(one, [0, 1, 1, 0])
    assert ms == [10.0, 4.0 + 3.0, 4.0, 10.0 + 3.0]
    assert simulation.switches == 2
    assert simulation.busy_ms.tolist() == [34.0]
    signals = simulation.signals()
    assert signals.switch_ms == 3.0
    assert (signals.cost_ratio_mean, signals.cost_ratio_max) == (1.0, 1.0)  # no plan's fault


def test_every_worker_pays_for_its_own_switches() -> None:
    one = service(10.0, 4.0, workers=2, switching=Switching(switch_ms=3.0))
    simulation = Simulation(one, at(0, 20, 40))  # the worker longest free: 0, 1, 0
    simulation.advance(15.0, RuleParams.static(0, 1))
    simulation.advance(math.inf, RuleParams.static(1, 1))
    assert simulation.end_ms.tolist() == [10.0, 24.0, 47.0]
    assert simulation.switches == 1


def test_a_plan_that_is_not_held_is_loaded_and_the_least_recently_used_goes() -> None:
    switching = Switching(switch_ms=1.0, load_ms=20.0, resident=2)
    one = service(4.0, 4.0, 4.0, switching=switching)
    simulation, ms = took(one, [0, 1, 0, 2, 0, 1])
    #  0 and 1 are held from the start; 2 takes the place of 1, used before 0, and 1 that of 2.
    assert ms == [4.0, 5.0, 5.0, 24.0, 5.0, 24.0]
    assert (simulation.switches, int(simulation._env["loads"])) == (5, 2)


def test_a_worker_that_holds_one_plan_loads_at_every_change() -> None:
    switching = Switching(switch_ms=1.0, load_ms=20.0, resident=1)
    assert took(service(4.0, 4.0, switching=switching), [0, 1, 1, 0])[1] == [4.0, 24.0, 4.0, 24.0]
    roomy = replace(switching, resident=2)
    assert took(service(4.0, 4.0, switching=roomy), [0, 1, 1, 0])[1] == [4.0, 5.0, 4.0, 5.0]


# -- losing a worker ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost_ms", "end_ms"),
    [
        ((5.0, 30.0), [40.0, 50.0]),  # 10 ms again from 30 on; the second waits for that
        ((10.0, 30.0), [10.0, 40.0]),  # it had just finished
        ((0.0, 30.0), [40.0, 50.0]),  # away when the first came
        ((200.0, 300.0), [10.0, 22.0]),
        ((math.inf, math.inf), [10.0, 22.0]),
    ],
)
def test_a_lost_batch_runs_again_when_the_worker_is_back(
    lost_ms: tuple[float, float], end_ms: list[float]
) -> None:
    got = run(service(units=units(1, lost_ms=[lost_ms])), at(0, 12))
    assert got.end_ms.tolist() == end_ms


def test_others_serve_while_a_worker_is_away() -> None:
    two = service(workers=2, units=units(2, lost_ms=[(5.0, 60.0), (math.inf, math.inf)]))
    got = run(two, at(0, 12, 13))
    assert got.end_ms.tolist() == [70.0, 22.0, 32.0]
    assert got.batches()["worker"].tolist() == [0, 1, 1]
    assert got.now_ms == 70.0


def test_fewer_workers_can_be_employed_and_a_batch_begun_is_finished() -> None:
    simulation = Simulation(service(workers=3), at(0, 0, 0, 20, 20, 40, 40))
    simulation.advance(5.0, ALONE)
    simulation.employ(1)
    simulation.advance(39.0, ALONE)
    assert simulation.end_ms[:5].tolist() == [10.0, 10.0, 10.0, 30.0, 40.0]
    assert simulation.signals().workers == 1
    simulation.employ(2)
    simulation.advance(41.0, ALONE)
    simulation.employ(1)
    simulation.advance(math.inf, ALONE)
    assert simulation.end_ms[5:].tolist() == [50.0, 50.0]
    assert simulation.done
    for workers in (0, 4):
        with pytest.raises(ValueError, match=rf"workers must be in 1\.\.3, got {workers}"):
            simulation.employ(workers)


def test_the_clock_stops_with_the_last_answer_even_of_a_worker_no_longer_employed() -> None:
    simulation = Simulation(service(workers=2, units=units(2, slower=[1.0, 5.0])), at(0, 0))
    simulation.advance(5.0, ALONE)
    simulation.employ(1)
    simulation.advance(math.inf, ALONE)
    assert simulation.end_ms.tolist() == [10.0, 50.0]
    assert (simulation.now_ms, simulation.done) == (50.0, True)


# -- uneven workers -----------------------------------------------------------------------------


def test_slower_is_known_to_the_table_and_the_link_is_not() -> None:
    apart = units(2, slower=[1.0, 2.0], link_ms=[0.0, 5.0])
    got = run(service(workers=2, units=apart), at(0, 0))
    assert got.end_ms.tolist() == [10.0, 25.0]
    assert got.batches()["expected_ms"].tolist() == [10.0, 20.0]
    got.advance(100.0, ALONE)
    signals = got.signals()
    assert signals.cost_ratio_max == 1.25
    assert signals.unevenness == pytest.approx(1 / 3)  # abilities 1 and 1/2


@pytest.mark.parametrize(
    ("placement", "workers"),
    [
        ("speed", [1, 1, 1, 1, 1, 1]),  # the first of the two fastest
        ("use", [0, 1, 2, 1, 2, 0]),  # 20, 10, 10, 20, 20: then the first again
        ("order", [0, 1, 2, 0, 1, 2]),
    ],
)
def test_who_is_next_of_those_that_are_free(placement: str, workers: list[int]) -> None:
    apart = replace(units(3, slower=[2.0, 1.0, 1.0]), placement=placement)
    got = run(service(workers=3, units=apart), at(*range(0, 600, 100)))
    assert got.batches()["worker"].tolist() == workers
    busy = [(10.0, 20.0)[w == 0] * workers.count(w) for w in range(3)]
    assert got.busy_ms.tolist() == busy


def test_the_fastest_is_so_by_its_kind_and_by_itself() -> None:
    """20 ms by its kind against 10 ms × 1.5."""
    cost_ms = np.stack([np.full((1, 4, 1), 10.0), np.full((1, 4, 1), 20.0)])
    apart = replace(units(2, kind=[1, 0], slower=[1.0, 1.5]), placement="speed")
    one = Service(cost_ms, np.ones(1), 1000.0, 2, units=apart)
    got = run(one, at(0, 100))
    assert got.batches()["worker"].tolist() == [1, 1]
    assert got.end_ms.tolist() == [15.0, 115.0]


def test_each_kind_of_device_has_a_table_of_its_own() -> None:
    """Plan 0 is the quicker on kind 0, plan 1 on kind 1, where plan 0 is not known to run."""
    cost_ms = np.array([[10.0, 30.0], [np.nan, 8.0]])[:, :, None, None]
    true_ms = np.array([[10.0, 30.0], [99.0, 12.0]])[:, :, None, None]
    one = Service(
        cost_ms, np.ones(1), 1000.0, 2, true_ms=true_ms, units=units(2, kind=[0, 1])
    )  # fmt: skip
    got = run(one, at(0, 0, 100, 100), RuleParams("rule"))
    assert got.ran.tolist() == [0, 1, 0, 1]
    assert got.end_ms.tolist() == [10.0, 12.0, 110.0, 112.0]
    assert got.batches()["expected_ms"].tolist() == [10.0, 8.0] * 2


# -- hidden, and learnt -------------------------------------------------------------------------


def test_drift_is_linear_between_its_levels_and_repeats() -> None:
    hidden = Disturbances(drift=np.array([1.0, 2.0, 4.0]), drift_every_ms=100.0)
    _, ms = took(service(8.0, hidden=hidden), [0] * 8)
    factors = [1.0, 1.5, 2.0, 3.0, 4.0, 2.5, 1.0, 1.5]  # at 0, 50, …; from 4 back to 1
    assert ms == [8.0 * factor for factor in factors]


def test_the_correction_follows_a_truth_that_is_slower() -> None:
    slow = service(learning=0.5, true_ms=service(20.0).cost_ms, units=units(1, slower=[1.5]))
    simulation = run(slow, at(0, 100, 200, 300))
    assert np.diff(simulation.end_ms).tolist() == [100.0] * 3  # what it costs stays 30 ms
    # 1, then half of the way to 2 after each batch; times 10 ms × 1.5.
    expected = [15.0 * c for c in (1.0, 1.5, 1.75, 1.875)]
    assert simulation.batches()["expected_ms"].tolist() == expected
    assert simulation.signals().correction == 1.875
    never = run(replace(slow, learning=0.0), at(0, 100))
    assert never.batches()["expected_ms"].tolist() == [15.0, 15.0]


def test_what_was_learnt_is_what_the_rule_decides_by() -> None:
    """20 ms instead of 10 with 15 ms to answer: late once, then refused at once."""
    slow = replace(service(learning=1.0, true_ms=service(20.0).cost_ms), slo_ms=15.0)
    got = run(slow, at(0, 100, 200))
    assert got.outcome.tolist() == [SERVED, DROPPED, DROPPED]
    assert got.end_ms.tolist() == [20.0, 100.0, 200.0]
    ignorant = run(replace(slow, learning=0.0), at(0, 100, 200))
    assert ignorant.result().served == 3


def test_a_worker_learns_for_itself() -> None:
    """The link is what the table does not know, of one worker."""
    apart = units(2, link_ms=[0.0, 10.0])
    got = run(service(workers=2, learning=1.0, units=apart), at(0, 0, 100, 100))
    assert got.batches()["expected_ms"].tolist() == [10.0, 10.0, 10.0, 20.0]


# -- the short form of the rule and the general one ---------------------------------------------


def twofold(one: Service) -> Service:
    """The same with a second padded length that no request has: the general rule decides."""
    cost_ms = np.concatenate([one.cost_ms, one.cost_ms * 9.0], axis=-1)
    true_ms = one.table("true_ms").reshape(one.cost_ms.shape)
    return replace(
        one, cost_ms=cost_ms, true_ms=np.concatenate([true_ms, true_ms], axis=-1),
        lengths=np.array([1.0, 2.0]),
    )  # fmt: skip


UNEVEN = units(
    3, slower=[1.0, 1.3, 0.8], link_ms=[0.0, 0.5, 0.0],
    lost_ms=[(500.0, 700.0), (math.inf, math.inf), (1000.0, 1100.0)],
)  # fmt: skip


@pytest.mark.parametrize("unknown", [False, True], ids=["all known", "some unknown"])
@pytest.mark.parametrize(
    "setting",
    [*(PRESETS[k] for k in (0, 2, 10, 14)), RuleParams.static(0, 4), RuleParams.static(1, 8, 4.0)],
    ids=lambda setting: setting.name,
)
def test_requests_of_one_length_are_served_alike_either_way(
    setting: RuleParams, unknown: bool
) -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(1, 9)[None, :, None]
    cost_ms = np.array([3.0, 2.0])[:, None, None] + np.array([1.0, 0.6])[:, None, None] * rows
    true_ms = cost_ms.copy()
    if unknown:
        cost_ms[0, 3:], cost_ms[1, 6:] = np.inf, np.nan
    one = Service(
        cost_ms, np.ones(1), 40.0, 3, tier=np.array([0, 1]), accuracy=np.array([1.0, 0.8]),
        true_ms=true_ms, learning=0.3, hidden=Disturbances(noise(rng, scatter=0.2)),
        switching=Switching(0.5, 2.0, 1), units=replace(UNEVEN, placement="use"),
    )  # fmt: skip
    trace = bursty(1500.0, 1.5, cv2=6.0, seed=1, lengths=ONE)
    short, general = run(one, trace, setting), run(twofold(one), trace, setting)
    # A hold may end 1e-6 ms later: the general rule counts in the worker's own milliseconds.
    np.testing.assert_allclose(short.end_ms, general.end_ms, rtol=0.0, atol=2e-6)
    np.testing.assert_array_equal(short.ran, general.ran)
    assert 0.1 < short.result().met_ratio < 0.999
    if unknown and setting.plans:
        (plan,) = setting.plans
        assert short.batches()["rows"].max() <= (3, 6)[plan]


def test_a_lone_request_is_as_long_as_it_is() -> None:
    rows = np.arange(1, 5)[None, :, None]
    one = Service(2.0 + 2.0 * rows * np.array([1.0, 2.0]), np.array([16.0, 32.0]), 20.0, 1)
    got = run(one, Trace(np.zeros(1), np.array([32], np.int32), "lone"))
    assert got.end_ms.tolist() == [6.0]
    assert got.result().padded_ratio == 0.0
    assert got.signals().mean_length == 32.0


def test_lengths_are_counted_even_where_all_are_padded_to_one() -> None:
    one = replace(service(), lengths=np.array([8.0]))
    got = run(one, Trace(np.zeros(2), np.array([2, 4], np.int32), "short"))
    assert got.signals().mean_length == 3.0
    assert got.result().padded_ratio == pytest.approx(1 - 6 / 16)
    alike = run(one, Trace(np.zeros(2), np.array([4, 4], np.int32), "alike"))
    assert alike.signals().mean_length == 4.0
    assert alike.result().padded_ratio == 0.5


# -- a queue that is full -----------------------------------------------------------------------


def bounded(one: Service, trace: Trace, room: int, setting: RuleParams) -> Any:
    """The log of a run with room for so many to wait."""
    inputs = make_inputs([one], [trace], [setting])
    state, log = make_state(1, inputs, room=room), full_log(len(trace))
    begin(inputs, state, 0, Piece(0, 0, 0, len(trace)))
    engine.advance(inputs, state, log, 0, math.inf)
    assert state.env["refused"][0] == (log.outcome == DROPPED).sum()
    return log


def test_of_a_full_queue_the_oldest_eighth_is_refused() -> None:
    """39 wait for a worker that is busy until 1001 ms, in room for 16: twelve times two go."""
    slow = replace(service(1000.0), slo_ms=1e6)
    log = bounded(slow, at(*range(1, 41)), 16, ALONE)
    refused = np.flatnonzero(log.outcome == DROPPED)
    assert refused.tolist() == list(range(1, 25))
    assert (log.end_ms[refused] == 1001.0).all()
    assert log.end_ms[25:].tolist() == [2001.0 + 1000.0 * k for k in range(15)]


def test_a_queue_that_moves_on_in_its_room_loses_nobody() -> None:
    one = replace(service(workers=1), slo_ms=1e6)
    trace = bursty(330.0, 3.0, cv2=2.0, seed=0, lengths=ONE)
    four = RuleParams.static(0, 4)
    roomy, tight = bounded(one, trace, len(trace), four), bounded(one, trace, 64, four)
    assert len(trace) > 3 * 64  # it wraps around several times
    np.testing.assert_array_equal(roomy.end_ms, tight.end_ms)
    assert (tight.outcome == SERVED).all()


def test_room_for_hardly_anybody_is_refused() -> None:
    inputs = make_inputs([service()], [at(0)], [ALONE])
    with pytest.raises(ValueError, match="room must be at least 8, got 7"):
        make_state(1, inputs, room=7)


# -- other disciplines --------------------------------------------------------------------------


def rows_cost(workers: int = 2, slo_ms: float = 50.0) -> Service:
    """Three plans, 6 + 2, 4 + 1 and 2 + 0.5 ms per row up to eight."""
    rows = np.arange(1, 9)[None, :, None]
    fixed, more = (np.array(v)[:, None, None] for v in ([6.0, 4.0, 2.0], [2.0, 1.0, 0.5]))
    accuracy = np.array([0.9, 0.8, 0.7])
    return Service(
        fixed + more * rows, np.ones(1), slo_ms, workers, tier=np.arange(3), accuracy=accuracy
    )


EVERY = (
    SlackFit(), SlackFit(8, early_drop=True), DrainAware(), DrainAware(0.8, early_drop=False),
    Clockwork(0), Clockwork(2), Clipper(0), Clipper(1, 4.0), Proteus(caution=1.2),
    Proteus(1, caution=1.2), BentoML(0), BentoML(2, 4),
)  # fmt: skip


@pytest.mark.parametrize("rival", EVERY, ids=lambda rival: rival.name)
def test_every_discipline_answers_all_of_a_light_load_in_time(rival: Any) -> None:
    one, trace = rows_cost(), poisson(40.0, 5.0, seed=0, lengths=ONE)
    got = run(one, trace, rival)
    result = got.result()
    assert (result.offered, result.met, result.refused) == (len(trace), len(trace), 0)
    plan = int(rival.to_array()[0])
    if plan >= 0:
        assert set(got.ran.tolist()) == {plan}
        assert result.utility == pytest.approx(one.accuracy[plan])  # type: ignore[index]
    assert got.batches()["rows"].max() <= rival.max_rows


def test_as_published_proteus_starts_every_batch_at_the_last_moment() -> None:
    got = run(rows_cost(), poisson(10.0, 5.0, seed=0, lengths=ONE), Proteus(0))
    assert got.result().served == len(got.trace)
    heads = np.unique(got.end_ms, return_index=True)[1]
    latency = (got.end_ms - got.trace.arrivals_s * 1e3)[heads]
    assert (latency <= 50.0 + 1e-6).all()
    assert np.median(latency) == pytest.approx(50.0)


def test_disciplines_worked_by_hand() -> None:
    hopeless = rows_cost(workers=1, slo_ms=7.0)  # 8 ms alone on plan 0
    assert run(hopeless, at(0, 3), Clockwork(0)).outcome.tolist() == [DROPPED, DROPPED]
    assert run(hopeless, at(0, 3), Clipper(0)).end_ms.tolist() == [8.0, 16.0]  # drops nothing
    # The lone one is in time, so batches may grow to two, then, after another success, three.
    roomy = rows_cost(workers=1, slo_ms=100.0)
    got = run(roomy, at(0, 1, 2, 3, 4, 5), Clipper(0))
    assert got.batches()["rows"].tolist() == [1, 2, 3]
    assert got.end_ms.tolist() == [8.0, 18.0, 18.0, 30.0, 30.0, 30.0]
    # A batch that takes 1.5 times what was expected counts so ever after: 12 of 15 ms, two rows
    # would take 15.
    spiky = replace(roomy, slo_ms=20.0, hidden=Disturbances(np.array([1.5])))
    got = run(spiky, at(0, 30, 30), Clockwork(0))
    assert got.batches()["rows"].tolist() == [1, 2]
    got = run(replace(spiky, slo_ms=14.0), at(0, 30, 30), Clockwork(0))
    assert got.outcome.tolist() == [SERVED, SERVED, DROPPED]


def test_settings_may_change_while_requests_wait() -> None:
    """Another discipline finds the queue as the one before left it."""
    simulation = Simulation(rows_cost(workers=1), at(0, 1, 2, 3))
    simulation.advance(5.0, Clipper(0))
    simulation.advance(math.inf, RuleParams.static(2, 8))
    assert simulation.ran.tolist() == [0, 2, 2, 2]
    assert simulation.end_ms.tolist() == [8.0, 11.5, 11.5, 11.5]
