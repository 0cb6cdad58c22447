"""The cost table: seeding, live correction, drift, persistence."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.costs import CostTable, RooflinePrior
from profiler.shapes import Shape, ShapeGrid

GRID = ShapeGrid(4, (8, 16, 32))


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def price(shape: Shape) -> float:
    return 1.0 + 0.1 * shape.tokens


def seeded(clock: Clock, *plans: str) -> CostTable:
    table = CostTable(GRID, clock=clock)
    for plan in plans or ("plan",):
        table.seed(plan, {s: price(s) for s in GRID.probe_shapes()})
    return table


def feed(table: CostTable, shape: Shape, ratio: float, batches: int) -> None:
    for _ in range(batches):
        table.record("plan", shape, price(shape) * ratio)


def test_timed_shapes_cost_what_was_timed(clock: Clock) -> None:
    cost = seeded(clock).estimate("plan", Shape(2, 16))
    assert cost.p50_ms == pytest.approx(4.2)
    assert cost.p99_ms == pytest.approx(4.2 * 1.25)  # the assumed tail, until live batches tell
    assert (cost.samples, cost.source) == (0, "measured")


def test_shapes_between_are_interpolated_and_lengths_are_padded(clock: Clock) -> None:
    table = seeded(clock)
    assert table.estimate("plan", Shape(3, 16)).source == "interpolated"
    assert table.estimate("plan", Shape(3, 16)).p50_ms == pytest.approx(price(Shape(3, 16)))
    assert table.estimate("plan", Shape(2, 9)) == table.estimate("plan", Shape(2, 16))


def test_an_unknown_plan_costs_infinitely_much(clock: Clock) -> None:
    table = seeded(clock)
    cost = table.estimate("other", Shape(1, 8))
    assert (cost.p50_ms, cost.p99_ms, cost.source) == (np.inf, np.inf, "unknown")
    matrix = table.matrix(["other", "plan"])
    assert np.isinf(matrix[0]).all()
    assert np.isfinite(matrix[1]).all()


def test_matrix_layout(clock: Clock) -> None:
    matrix = seeded(clock, "a", "b").matrix(["b", "a"])
    assert matrix.shape == (2, 4, 3)
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous
    assert matrix[0, 1, 2] == pytest.approx(price(Shape(2, 32)))
    assert seeded(clock).matrix([]).shape == (0, 4, 3)


def test_a_shape_outside_the_grid_is_refused_when_asked_and_ignored_when_recorded(
    clock: Clock,
) -> None:
    table = seeded(clock)
    with pytest.raises(ValueError, match="rows must be at most 4, got 5"):
        table.estimate("plan", Shape(5, 8))
    with pytest.raises(ValueError, match="length must be between 1 and 32, got 33"):
        table.estimate("plan", Shape(1, 33))
    table.record("plan", Shape(5, 8), 1e9)
    table.record("plan", Shape(1, 33), 1e9)
    assert table.estimate("plan", Shape(1, 8)).p50_ms == pytest.approx(price(Shape(1, 8)))


@pytest.mark.parametrize("elapsed_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_meaningless_time_changes_nothing(clock: Clock, elapsed_ms: float) -> None:
    table = seeded(clock)
    before = table.to_json()
    table.record("plan", Shape(1, 8), elapsed_ms)
    table.record("new", Shape(1, 8), elapsed_ms)
    assert table.to_json() == before


def test_a_slower_machine_raises_every_price_of_the_plan_only(clock: Clock) -> None:
    table = seeded(clock, "plan", "other")
    feed(table, Shape(2, 16), 2.0, 60)
    assert table.estimate("plan", Shape(2, 16)).p50_ms == pytest.approx(8.4, rel=0.03)
    # A length never run learns from the plan as a whole.
    assert table.estimate("plan", Shape(4, 32)).p50_ms == pytest.approx(
        2 * price(Shape(4, 32)), rel=0.1
    )
    assert table.estimate("other", Shape(2, 16)).p50_ms == pytest.approx(4.2)


def test_half_of_a_jump_is_followed_within_ten_batches(clock: Clock) -> None:
    table = seeded(clock)
    feed(table, Shape(2, 16), 1.0, 200)
    feed(table, Shape(2, 16), 2.0, 10)
    assert table.estimate("plan", Shape(2, 16)).p50_ms > 4.2 * 1.5
    feed(table, Shape(2, 16), 1.0, 40)
    assert table.estimate("plan", Shape(2, 16)).p50_ms == pytest.approx(4.2, rel=0.05)


def test_cells_keep_their_own_offset_when_the_mix_changes(clock: Clock) -> None:
    table = seeded(clock)
    for _ in range(80):
        feed(table, Shape(1, 8), 1.0, 1)
        feed(table, Shape(1, 32), 3.0, 1)
    feed(table, Shape(1, 8), 1.0, 300)  # long runs of one bucket must not drag the other along
    assert table.estimate("plan", Shape(1, 8)).p50_ms == pytest.approx(1.8, rel=0.1)
    assert table.estimate("plan", Shape(1, 32)).p50_ms == pytest.approx(3 * 4.2, rel=0.15)


def test_single_spikes_move_the_tail_not_the_median(clock: Clock) -> None:
    table = seeded(clock)
    for i in range(600):
        feed(table, Shape(1, 16), 8.0 if i % 40 == 39 else 1.0, 1)
    cost = table.estimate("plan", Shape(1, 16))
    assert cost.p50_ms == pytest.approx(price(Shape(1, 16)), rel=0.15)
    assert cost.p99_ms > 2 * cost.p50_ms


def test_a_steady_plan_earns_a_tight_tail(clock: Clock) -> None:
    table = seeded(clock)
    feed(table, Shape(1, 16), 1.0, 520)
    cost = table.estimate("plan", Shape(1, 16))
    assert 1.0 <= cost.p99_ms / cost.p50_ms < 1.12


def test_prices_are_calibrated_in_steady_traffic(clock: Clock) -> None:
    """About half the batches exceed the median price, about one in a hundred the tail."""
    rng = np.random.default_rng(7)
    table = seeded(clock)
    above_median = above_tail = 0
    for i in range(3000):
        length = int(rng.choice(GRID.lengths))
        shape = Shape(int(rng.integers(1, 5)), length)
        ratio = (1.6 if length == 32 else 1.1) * float(rng.lognormal(0.0, 0.12))
        if i >= 500:
            cost = table.estimate("plan", shape)
            above_median += price(shape) * ratio > cost.p50_ms
            above_tail += price(shape) * ratio > cost.p99_ms
        table.record("plan", shape, price(shape) * ratio)
    assert 0.44 < above_median / 2500 < 0.56
    assert 0.004 < above_tail / 2500 < 0.02


def test_a_plan_left_alone_returns_to_its_timings(clock: Clock) -> None:
    table = seeded(clock)
    feed(table, Shape(2, 16), 3.0, 60)
    slow = table.estimate("plan", Shape(2, 16)).p50_ms
    clock.now_s += 30.0
    halfway = table.estimate("plan", Shape(2, 16)).p50_ms
    clock.now_s += 300.0
    assert 4.2 < halfway < slow
    assert table.estimate("plan", Shape(2, 16)).p50_ms == pytest.approx(4.2, rel=0.01)
    feed(table, Shape(2, 16), 1.0, 1)  # and its next batch does not revive the old story
    assert table.estimate("plan", Shape(2, 16)).p50_ms == pytest.approx(4.2, rel=0.05)


def test_a_roofline_serves_until_live_batches_or_timings_come(clock: Clock) -> None:
    table = CostTable(GRID, clock=clock)
    prior = RooflinePrior(1e7, 1e6, gflop_per_s=100.0, bandwidth_gb_per_s=10.0, overhead_ms=0.0)
    table.prior("plan", prior)
    cost = table.estimate("plan", Shape(4, 16))
    assert cost.p50_ms == pytest.approx(6.4)
    assert cost.source == "roofline"
    for _ in range(4):
        table.record("plan", Shape(4, 16), 64.0)  # a bound may be far off: believed at once
    assert table.estimate("plan", Shape(4, 16)).p50_ms == pytest.approx(64.0, rel=0.05)
    clock.now_s += 1e4  # old evidence still beats a guess
    assert table.estimate("plan", Shape(4, 16)).p50_ms == pytest.approx(64.0, rel=0.05)
    table.seed("plan", {Shape(4, 16): 70.0})
    table.prior("plan", prior)
    assert table.estimate("plan", Shape(4, 16)).p50_ms == pytest.approx(70.0)


def test_a_plan_nobody_timed_is_learnt_from_its_batches(clock: Clock) -> None:
    table = CostTable(GRID, clock=clock)
    shapes = (Shape(1, 8), Shape(4, 32), Shape(1, 32))
    for _ in range(30):
        for shape in shapes:
            table.record("original", shape, 2 * price(shape))
    for shape in shapes:
        cost = table.estimate("original", shape)
        assert cost.p50_ms == pytest.approx(2 * price(shape), rel=0.02)
    assert np.isfinite(table.matrix(["original"])).all()
    assert not table.drifts()


def test_drift_is_reported_while_it_lasts(clock: Clock) -> None:
    table = seeded(clock, "plan", "steady")
    feed(table, Shape(2, 16), 1.1, 500)
    assert table.drifts() == ()
    clock.now_s = 107.0
    feed(table, Shape(2, 16), 2.0, 30)
    (drift,) = table.drifts()
    assert (drift.plan, drift.direction, drift.since_s) == ("plan", "slower", 107.0)
    assert drift.ratio == pytest.approx(2.0, rel=0.1)
    feed(table, Shape(2, 16), 1.0, 20)
    assert table.drifts() == ()


def test_a_plan_that_got_faster_drifts_too_and_new_timings_settle_it(clock: Clock) -> None:
    table = seeded(clock)
    feed(table, Shape(2, 16), 0.5, 20)
    assert [d.direction for d in table.drifts()] == ["faster"]
    table.seed("plan", {Shape(2, 16): 2.1})
    assert table.drifts() == ()
    assert table.estimate("plan", Shape(2, 16)).samples == 0


batches = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 32), st.floats(0.05, 20.0)), max_size=60
)


@settings(max_examples=40)
@given(batches, st.sampled_from([0.5, 0.9, 0.99]))
def test_prices_stay_monotone_and_agree_whatever_is_recorded(
    seen: list[tuple[int, int, float]], quantile: float
) -> None:
    clock = Clock()
    table = seeded(clock)
    for rows, length, ratio in seen:
        table.record("plan", Shape(rows, length), price(Shape(rows, GRID.pad(length))) * ratio)
    matrix = table.matrix(["plan"], quantile)[0]
    assert np.isfinite(matrix).all()
    assert (np.diff(matrix, axis=0) >= -1e-9 * matrix[:-1]).all()
    assert (np.diff(matrix, axis=1) >= -1e-9 * matrix[:, :-1]).all()
    assert (matrix >= table.matrix(["plan"], 0.5)[0] * (1 - 1e-9)).all()
    for bucket, length in enumerate(GRID.lengths):
        cost = table.estimate("plan", Shape(3, length))
        assert cost.p50_ms == table.matrix(["plan"])[0, 2, bucket]
        assert cost.p99_ms == table.matrix(["plan"], 0.99)[0, 2, bucket]


def test_everything_survives_json(clock: Clock) -> None:
    table = seeded(clock, "plan", "other")
    table.prior("guess", RooflinePrior(1e7, 1e6, 100.0, 10.0))
    feed(table, Shape(2, 16), 1.7, 40)
    table.record("live", Shape(1, 8), 3.0)
    table.record("guess", Shape(1, 8), 3.0)
    text = json.dumps(table.to_json())
    again = CostTable.from_json(json.loads(text), clock=clock)
    assert json.dumps(again.to_json()) == text
    names = table.plans()
    assert names == ("guess", "live", "other", "plan")
    for quantile in (0.5, 0.99):
        np.testing.assert_array_equal(again.matrix(names, quantile), table.matrix(names, quantile))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "version of a cost table must be 1, got None; discard"),
        ({"version": 2}, "got 2"),
        ({"version": 1}, "broken one"),
        ({"version": 1, "grid": {"max_rows": 1, "lengths": [1]}, "plans": 3}, "broken one"),
    ],
)
def test_a_broken_file_is_named(broken: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostTable.from_json(broken)


def test_seeding_nonsense_is_refused_and_keeps_the_old(clock: Clock) -> None:
    table = seeded(clock)
    with pytest.raises(ValueError, match="at least one shape for plan plan, got none"):
        table.seed("plan", {})
    with pytest.raises(ValueError, match="finite and above 0, got nan"):
        table.seed("plan", {Shape(1, 8): float("nan")})
    with pytest.raises(ValueError, match=r"finite and above 0, got -1\.0"):
        table.seed("plan", {Shape(1, 8): -1.0})
    with pytest.raises(ValueError, match="quantile must be between 0 and 1"):
        table.matrix(["plan"], 1.0)
    assert table.estimate("plan", Shape(1, 8)).source == "measured"


def test_forgetting(clock: Clock) -> None:
    table = seeded(clock)
    table.forget("plan")
    table.forget("plan")
    assert table.plans() == ()


def test_threads_may_share_it(clock: Clock) -> None:
    table = seeded(clock)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(300):
                rows, length = int(rng.integers(1, 5)), int(rng.integers(1, 33))
                table.record("plan", Shape(rows, length), float(rng.uniform(1, 9)))
                table.matrix(["plan"])
                table.to_json()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(table.estimate("plan", Shape(1, n)).samples for n in GRID.lengths) == 3 * 64
