"""The twin: made from what was measured and seen, kept in a file, cut into regimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.presets import DEFAULT
from sims.reference import reference_service
from sims.service import Switching
from sims.simulation import Simulation
from sims.traces import Trace, poisson
from sims.twin import CALIBRATION_S, UNKNOWN_COST, Measured, Twin

RATIOS = np.array([0.9, 1.0, 1.2])


def twin(seconds: float = 60.0) -> Twin:
    base = reference_service()
    measured = Measured(base.cost_ms, base.lengths, 50.0, 2, np.zeros(3, np.int64), np.ones(3))
    return Twin.of(measured, poisson(80.0, seconds, seed=0), ratios=RATIOS)


def test_costs_nobody_knows_are_dear_and_long_requests_are_clipped() -> None:
    cost = np.array([[[2.0, np.nan], [3.0, 9.0]]])
    traffic = Trace(np.array([0.0, 1.0]), np.array([5, 999], np.int32), "seen")
    one = np.zeros(1, np.int64), np.ones(1)
    measured = Measured(cost, np.array([8.0, 16.0]), 20.0, 1, *one)
    made = Twin.of(measured, traffic, ratios=np.empty(0))
    assert made.service.cost_ms[0, 0, 1] == UNKNOWN_COST * 9.0
    assert made.traffic.lengths.tolist() == [5, 16]
    unknown = Measured(np.full((1, 1, 1), np.nan), np.ones(1), 20.0, 1, *one)
    with pytest.raises(ValueError, match="cost_ms must hold at least one known cost, got none"):
        Twin.of(unknown, traffic, ratios=RATIOS)


def test_its_batches_scatter_as_those_that_were_seen() -> None:
    factor = twin().service.hidden.factor
    assert set(np.unique(factor)) == set(RATIOS)
    assert abs((factor == 0.9).mean() - 1 / 3) < 0.05


def test_a_saved_twin_replays_the_same(tmp_path: Path) -> None:
    made = twin(5.0)
    made.save(tmp_path)
    assert Twin.load(tmp_path).replay(DEFAULT) == made.replay(DEFAULT)
    latencies_ms = np.full(40, 30.0)
    made.save(tmp_path, latencies_ms)
    assert Twin.load(tmp_path).service.delay_ms == made.calibrated(latencies_ms).service.delay_ms
    assert Twin.load(tmp_path).service.delay_ms > made.service.delay_ms


def test_what_a_change_of_plan_costs_goes_with_it(tmp_path: Path) -> None:
    made = twin(20.0)
    charged = replace(made, service=replace(made.service, switching=Switching(1.5)))
    charged.save(tmp_path)
    loaded = Twin.load(tmp_path)
    for service in (loaded.service, loaded.regimes(10.0)["clumped"][0][0]):
        assert service.switching.switch_ms == 1.5
    assert loaded.domain().switch_ms == (0.75, 2.25)


def test_the_memory_pattern_goes_with_it_wherever_it_is_trained_in(tmp_path: Path) -> None:
    made = twin(20.0)
    pattern = np.random.default_rng(0).random((*made.service.cost_ms.shape[1:], 4))
    known = replace(made, service=replace(made.service, pattern=pattern))
    known.save(tmp_path)
    loaded = Twin.load(tmp_path)
    drawn = loaded.domain().draw_service(np.random.default_rng(0))
    for service in (loaded.service, drawn, loaded.regimes(10.0)["clumped"][0][0]):
        np.testing.assert_array_equal(service.pattern, pattern)
    made.save(tmp_path)
    assert Twin.load(tmp_path).service.pattern is None


def test_the_split_keeps_every_request_in_one_part() -> None:
    first, rest = twin().split(0.6)
    assert len(first.traffic) + len(rest.traffic) == len(twin().traffic)
    assert first.traffic.seconds == pytest.approx(36.0, abs=0.2)


def test_regimes_are_the_traffic_calmer_busier_and_clumped() -> None:
    regimes = twin().regimes(10.0)
    assert list(regimes) == ["as seen", "calmer", "busier", "clumped"]
    assert {len(episodes) for episodes in regimes.values()} == {6}
    rate = {name: np.mean([t.rate_per_s for _, t in es]) for name, es in regimes.items()}
    assert rate["calmer"] == pytest.approx(0.6 * rate["as seen"])
    assert rate["busier"] == pytest.approx(1.5 * rate["as seen"])

    def cv2(trace: Trace) -> float:
        gaps = np.diff(trace.arrivals_s)
        return float(gaps.var() / gaps.mean() ** 2)

    assert np.mean([cv2(t) for _, t in regimes["clumped"]]) > 4
    hidden = {service.hidden.factor.tobytes() for service, _ in regimes["as seen"]}
    assert len(hidden) == 6


def test_a_quiet_stretch_gives_no_episode() -> None:
    made = twin(10.0)
    quiet = Trace(
        np.append(made.traffic.arrivals_s, 55.0), np.append(made.traffic.lengths, np.int32(9)), "q"
    )
    regimes = Twin(made.service, quiet).regimes(10.0)
    assert len(regimes["as seen"]) == 1


def test_it_trains_on_lengths_and_loads_like_those_seen() -> None:
    made = twin()
    domain = made.domain()
    rng = np.random.default_rng(0)
    assert set(domain.lengths(rng)) == set(made.traffic.lengths)
    assert (domain.workers, domain.slo_ms) == ((2, 2), (50.0, 50.0))
    service, trace = domain.draw(rng)
    assert service.workers == 2
    assert trace.seconds <= domain.seconds + 0.5


def test_what_serving_costs_beside_the_plans_is_found_in_the_latencies() -> None:
    """Answers of a service whose overhead and delay are known give back its latencies."""
    made = twin(30.0)
    truth = replace(made.service, overhead_ms=1.0, delay_ms=0.8)
    simulation = Simulation(truth, made.traffic)
    simulation.advance(np.inf, DEFAULT)
    latencies = simulation.end_ms - made.traffic.arrivals_s * 1e3
    found = Twin.of(
        Measured(truth.cost_ms, truth.lengths, 50.0, 2, np.zeros(3, np.int64), np.ones(3)),
        made.traffic,
        ratios=RATIOS,
        latencies_ms=latencies[made.traffic.arrivals_s >= made.traffic.seconds - CALIBRATION_S],
    )
    assert found.service.overhead_ms + found.service.delay_ms == pytest.approx(1.8, abs=0.5)
    told, expected = found.replay(DEFAULT), simulation.result()
    assert told.p50_ms == pytest.approx(expected.p50_ms, rel=0.05)
    assert told.p99_ms == pytest.approx(expected.p99_ms, rel=0.1)
