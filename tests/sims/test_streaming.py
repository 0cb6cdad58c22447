"""A trace in pieces: the same figures to the last bit, in memory that does not grow."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.base import Choice, Policy
from policies.baselines import ThresholdPolicy
from policies.params import RuleParams
from policies.presets import DEFAULT
from policies.rivals import BentoML, Clipper, Clockwork, Proteus, SlackFit
from profiler.signals import Signals
from sims import streaming
from sims.engine.advance import advance
from sims.engine.state import SERVED
from sims.evaluation.suite import six_tiers
from sims.latencies import ACCURACY
from sims.reference import reference_service
from sims.service import Disturbances, Result, Service, Switching, Units, drifting, noise
from sims.simulation import Simulation, drive, played, simulate
from sims.streaming import StreamedSimulation, simulate_stream
from sims.traces import NoArrivals, Trace, bursty, poisson, recorded, stream, surge


def cut(trace: Trace, *at: int) -> Iterator[Trace]:
    """The trace in pieces that end at these requests."""
    edges = [0, *at, len(trace)]
    for low, high in pairwise(edges):
        if low < high:
            yield Trace(trace.arrivals_s[low:high], trace.lengths[low:high], trace.name)


def pieces_of(trace: Trace, size: int) -> Iterator[Trace]:
    return cut(trace, *range(size, len(trace), size))


class Sensitive:
    """A policy whose every parameter follows from what it sees: one other bit shows."""

    name = "sensitive"

    def __init__(self) -> None:
        self.seen: list[Signals] = []

    def choose(self, signals: Signals, current: Choice) -> Choice:
        self.seen.append(signals)
        margin = 0.3 + signals.burstiness % 0.6
        delta = min(1.5, signals.cost_ratio_mean * signals.busy_share)
        plans = (0, 1) if signals.queue > 40 else ()
        told = RuleParams("seen", margin=margin, delta=delta, plans=plans)
        return Choice(told, f"{current.params.margin:g} before")


def disturbed(seed: int) -> Service:
    """All at once: hidden noise and drift, switches, uneven workers, one of them away, learning."""
    rng = np.random.default_rng(seed)
    units = Units(
        np.zeros(3, np.int64), np.array([1.0, 1.4, 0.8]), np.array([0.0, 0.5, 0.2]),
        np.array([[np.inf, np.inf], [900.0, 2100.0], [np.inf, np.inf]]), "use",
    )  # fmt: skip
    factor = noise(rng, scatter=0.2, spike_share=0.05, count=37)
    return replace(
        six_tiers(workers=3), lengths=np.array([300.0]), units=units, learning=0.1,
        overhead_ms=0.3, delay_ms=1.5,
        hidden=Disturbances(factor, drifting(rng, (0.7, 1.6), 5), 400.0),
        switching=Switching(0.7, 3.0, 2),
    )  # fmt: skip


def clumped(seed: int) -> Trace:
    """Overload with many arrivals at one moment: borders fall between equal times, too."""
    trace = surge(1500.0, 12_000.0, 1.6, seed=seed)
    return replace(trace, arrivals_s=np.floor(trace.arrivals_s * 200.0) / 200.0)


def same(streamed: Result, whole: Result) -> bool:
    """All but the two quantiles to the last bit, and those within what is promised."""
    near = partial(math.isclose, rel_tol=ACCURACY * (1 + 1e-9))
    assert near(streamed.p50_ms, whole.p50_ms)
    assert near(streamed.p99_ms, whole.p99_ms)
    assert replace(streamed, p50_ms=whole.p50_ms, p99_ms=whole.p99_ms) == whole
    return True


def gone_long() -> Service:
    """One worker for four: who refuses nobody has thousands waiting, longer than the window."""
    return replace(six_tiers(workers=1), lengths=np.array([300.0]))


SETTINGS = [
    DEFAULT, RuleParams.static(3, 8, 2.0), RuleParams("hold", wait_ms=4.0, delta=0.0), SlackFit(),
    Clockwork(plan=4), Clipper(plan=3), Proteus(), BentoML(plan=2),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_pieces_are_the_whole_under_a_setting(setting: Any, seed: int) -> None:
    trace = clumped(seed)
    for service in (disturbed(seed), gone_long()):
        whole = simulate(service, trace, setting)
        for size in (37, 500, 4096, len(trace)):
            assert same(simulate_stream(service, pieces_of(trace, size), setting), whole)


@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_the_whole_where_lengths_differ(seed: int) -> None:
    service, trace = reference_service(workers=1 + seed, seed=seed), surge(80, 900, 4, seed=seed)
    rng = np.random.default_rng(seed)
    for setting in (DEFAULT, RuleParams.static(1, 8, 5.0, spread=1.0), RuleParams.static(0, 4)):
        whole = simulate(service, trace, setting)
        for size in (1, 13, 300):
            assert same(simulate_stream(service, pieces_of(trace, size), setting), whole)
        at = np.sort(rng.integers(1, len(trace), 9)).tolist()
        assert same(simulate_stream(service, cut(trace, *at), setting), whole)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tick_ms", [100.0, 33.3])
def test_a_policy_sees_the_same_to_the_last_bit(tick_ms: float, seed: int) -> None:
    for service, trace in (
        (disturbed(seed), clumped(seed)),
        (reference_service(seed=seed), bursty(400.0, 4.0, cv2=6.0, seed=seed)),
    ):
        first = Sensitive()
        whole = simulate(service, trace, first, tick_ms=tick_ms)
        for size in (29, 700, 5000):
            again = Sensitive()
            got = simulate_stream(service, pieces_of(trace, size), again, tick_ms=tick_ms)
            assert again.seen == first.seen
            assert same(got, whole)
        threshold = ThresholdPolicy()
        streamed = simulate_stream(service, pieces_of(trace, 97), threshold, tick_ms=tick_ms)
        assert same(streamed, simulate(service, trace, threshold, tick_ms=tick_ms))


def test_every_single_latency_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    counted = streaming.counted
    monkeypatch.setattr(streaming, "counted", lambda ms: (seen.append(ms), counted(ms))[1])
    service, trace = disturbed(5), clumped(5)
    simulate_stream(service, pieces_of(trace, 123), DEFAULT)
    whole = played(service, trace, DEFAULT)
    latencies = (whole.end_ms - trace.arrivals_s * 1e3)[whole.outcome == SERVED]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(latencies))


def test_a_border_in_the_middle_of_a_burst_carries_the_queue_over() -> None:
    service, trace, setting = gone_long(), clumped(1), SlackFit()
    burst = int(np.argmax(trace.arrivals_s > 0.9)) - 3  # between arrivals of one moment
    assert trace.arrivals_s[burst - 1] == trace.arrivals_s[burst]
    simulation = StreamedSimulation(service, cut(trace, burst))
    simulation.advance(trace.arrivals_s[burst] * 1e3, setting)
    assert simulation.offered > burst
    assert simulation.signals().queue > 1000
    simulation.advance(math.inf, setting)
    assert same(simulation.result(), simulate(service, trace, setting))


def test_many_at_one_moment_may_be_cut_anywhere_and_that_moment_may_be_0() -> None:
    service, lengths = gone_long(), np.full(90, 7, np.int32)
    for moments in ([0.0], [0.0, 0.05, 0.2]):
        trace = Trace(np.repeat(moments, 90 // len(moments)), lengths, "clumps")
        for policy in (DEFAULT, SlackFit(), Sensitive()):
            whole = simulate(service, trace, policy, tick_ms=50.0)
            for size in (1, 7, 30):
                got = simulate_stream(service, pieces_of(trace, size), policy, tick_ms=50.0)
                assert same(got, whole)


def test_a_long_queue_is_all_that_is_held_beside_a_piece_and_a_second() -> None:
    service, trace = gone_long(), clumped(1)
    simulation = StreamedSimulation(service, pieces_of(trace, 100))
    while simulation.arriving:
        simulation.advance(simulation.now_ms + 50.0, SlackFit())
        seen = simulation.signals()
        # At the last border, at most 50 ms and a piece ago, up to 800 less were over.
        assert simulation.held <= max(seen.queue, sum(seen.arrivals_100ms)) + 100 + 800
    assert 1000 < simulation.held < len(trace)


def generated(count: int) -> Iterator[Trace]:
    """`count` pieces of 2 s and some thousand requests each, made when asked for."""
    for k in range(count):
        made = poisson(500.0, 2.0, seed=k, lengths=np.ones(1, np.int32))
        yield replace(made, arrivals_s=made.arrivals_s + 2.0 * k)


def sizes(simulation: StreamedSimulation) -> int:
    """Entries of the largest array that depends on the trace."""
    inputs, state, log = simulation._inputs, simulation._state, simulation._log
    return max(inputs.at_ms.size, inputs.length.size, state.queue_ms.size, log.end_ms.size)


@pytest.mark.parametrize("policy", [DEFAULT, Sensitive()], ids=["setting", "policy"])
def test_memory_is_that_of_a_piece_however_many_there_are(policy: Any) -> None:
    simulation, largest, service = None, [], reference_service()

    def watched() -> Iterator[Trace]:
        for piece in generated(150):
            if simulation is not None:
                largest.append(sizes(simulation))
            yield piece

    simulation = StreamedSimulation(service, watched())
    drive(simulation, policy)
    assert len(largest) == 149
    # A piece, the second before it, the few who may wait for an answer within 50 ms, and in the
    # log of batches a turn of the hidden factors.
    assert max(largest) < 1000 + 500 + 300 + service.hidden.factor.size


def test_no_more_is_allocated_for_ten_times_the_pieces() -> None:
    peaks = []
    for count in (2, 20, 200):
        tracemalloc.start()
        simulate_stream(reference_service(), generated(count), DEFAULT)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


def test_a_policy_that_invents_settings_does_not_fill_the_memory() -> None:
    simulation = StreamedSimulation(six_tiers(), generated(20))
    drive(simulation, Sensitive(), tick_ms=50.0)
    assert 0 < len(simulation._tables) <= 256  # of 800 ticks


def test_a_recorded_file_is_played_as_it_is_read(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "trace.csv"
    times = np.cumsum(rng.exponential(0.003, 4000)).round(3)
    path.write_text("time,tokens\n" + "".join(f"{at},{k % 200}\n" for k, at in enumerate(times)))
    service = reference_service()
    whole = simulate(service, recorded(path), DEFAULT)
    assert same(simulate_stream(service, stream(path, chunk_s=0.7), DEFAULT), whole)


def test_a_run_in_steps_says_how_it_went() -> None:
    service, trace = reference_service(), poisson(300.0, 2.0, seed=0)
    streamed, whole = StreamedSimulation(service, pieces_of(trace, 50)), Simulation(service, trace)
    assert streamed.result() == whole.result()  # nothing offered yet
    for until_ms in (10.0, 10.0, 700.0, 5000.0):
        for simulation in (streamed, whole):
            simulation.advance(until_ms, DEFAULT)
        assert streamed.signals() == whole.signals()
        assert (streamed.now_ms, streamed.offered) == (whole.now_ms, whole.offered)
        assert streamed.arriving == whole.arriving
        assert same(streamed.result(), whole.result())
    with pytest.raises(ValueError, match=r"until_ms must be at least now_ms \(5000\.0\), got 4"):
        streamed.advance(4.0, DEFAULT)


def test_arrays_of_any_layout_are_taken_without_compiling_anew() -> None:
    trace = poisson(500.0, 2.0, seed=0, lengths=np.ones(1, np.int32))
    simulate_stream(six_tiers(), pieces_of(trace, 100), DEFAULT)
    compiled = len(advance.signatures)
    spread = np.repeat(trace.arrivals_s, 2)[::2], np.repeat(trace.lengths, 2)[::2]
    for array in spread:
        array.setflags(write=False)
    simulate_stream(six_tiers(), pieces_of(Trace(*spread, "views"), 100), DEFAULT)
    assert len(advance.signatures) == compiled


def at(*times_s: float, length: int = 16) -> Trace:
    return Trace(np.array(times_s), np.full(len(times_s), length, np.int32), "hand")


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([], "pieces must hold at least one trace, got none"),
        (
            [at(0.0, 1.0), at(1.0, 5.0), at(4.0)],
            r"got piece 2 from 4\.0 s on after an arrival at 5\.0 s; times are those of the whole",
        ),
        ([at(3.0), at(0.0)], "pieces must follow one another, got piece 1 from 0.0 s"),
        ([at(0.0), at(9.0, length=10**6)], "trace lengths must be at most 280 .*, got 1000000"),
    ],
)
def test_pieces_must_be_one_trace(pieces: list[Trace], text: str) -> None:
    for policy in (DEFAULT, ThresholdPolicy()):
        with pytest.raises(ValueError, match=text):
            simulate_stream(reference_service(), pieces, policy)


def test_no_piece_is_no_arrivals() -> None:
    with pytest.raises(NoArrivals):
        simulate_stream(six_tiers(), iter(()), DEFAULT)


def test_a_driver_must_make_sense() -> None:
    class Silent:
        name = "silent"

        def choose(self, signals: Signals, current: Choice) -> Choice:
            return None  # type: ignore[return-value]

    service, trace = reference_service(), poisson(100.0, 1.0, seed=0)
    assert isinstance(Silent(), Policy)
    for run in (
        lambda policy, **more: simulate(service, trace, policy, **more),
        lambda policy, **more: simulate_stream(service, [trace], policy, **more),
    ):
        with pytest.raises(
            ValueError, match="silent: choose must return a Choice of RuleParams, got None"
        ):
            run(Silent())
        with pytest.raises(ValueError, match="tick_ms must be finite and greater than 0, got 0"):
            run(ThresholdPolicy(), tick_ms=0.0)
        with pytest.raises(ValueError, match="must serve requests of one padded length"):
            run(SlackFit())
