"""One batch after another, by a clock of the test's own and without a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolve.data_plane.faults import Faults, OutOfMemory, Ruling
from evolve.data_plane.lane import Lane, Serving
from evolve.data_plane.liberties import Liberties, Licence
from evolve.data_plane.original import Original
from evolve.data_plane.request_queue import Request
from evolve.data_plane.scheduler import Scheduler, Tables
from evolve.data_plane.served_by import Origins
from evolve.data_plane.traffic_split import TrafficSplit
from evolve.errors import DeadlineExceeded, PlanDeclined, PlanFault, WorkerCrashed, WorkerHung
from evolve.monitoring.savings import BatchRecord, Savings
from evolve.monitoring.stats import Stats
from evolve.monitoring.traffic import Traffic
from evolve.workers.base import Answer
from policies.presets import DEFAULT
from profiler.costs import CostTable
from profiler.shapes import Shape, ShapeGrid
from profiler.signals import Window
from supernet.bounds import Bound, Bounds
from supernet.capture.calls.call_signature import CallForm, Example
from supernet.capture.calls.pytree import flatten
from supernet.capture.captured import Capture
from supernet.plans import ORIGINAL, PlanLibrary, PlanState
from tests.evolve.watched import plan as plan_of
from tests.evolve.watched import signature

SLO_MS = 50.0
ORIGINAL_MS, PLAN_MS = 10.0, 2.0
GRID = ShapeGrid(max_rows=4, lengths=(8,))
SIGNATURE = signature([["rows", "length"]], [["rows", "length"]])
PLAN = plan_of()
THE_PLANS = 0.5
"""What the plan's answers are off by, so that it shows who answered."""

Leaves = Sequence[torch.Tensor]


class Clock:
    """Seconds; moves when somebody computes."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_ms(self, ms: float) -> None:
        self.now_s += ms / 1e3

    @property
    def now_ms(self) -> float:
        return self.now_s * 1e3


class Doubling(torch.nn.Module):
    """Takes 10 ms, and raises for a 13."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._clock.pass_ms(ORIGINAL_MS)
        if bool((x == 13).any()):
            raise ValueError("thirteen")
        return 2 * x


class Unwatched:
    """Takes no samples."""

    def sample(self, *_: object) -> list[Any]:
        return []

    def offer(self, samples: list[Any]) -> None:
        pass


class Noting(Stats):
    """Keeps what lanes noted."""

    ran_so_far: list[BatchRecord]

    def record_batch(self, note: BatchRecord) -> None:
        self.ran_so_far.append(note)
        super().record_batch(note)


class Worker:
    """Takes 2 ms for the plan, and does what the test says."""

    pid, alive, name = 1, True, "worker-0"

    def __init__(self, clock: Clock) -> None:
        self.resident = frozenset({PLAN.key})
        self.lengths: list[int] = []
        self.behaves: Callable[[Leaves], list[torch.Tensor]] = lambda leaves: [
            2 * leaves[0] + THE_PLANS
        ]
        self._clock = clock

    def run(self, key: str, leaves: Leaves) -> Answer:
        assert key == PLAN.key
        self._clock.pass_ms(PLAN_MS)
        self.lengths.append(leaves[0].shape[1])
        return Answer(self.behaves(leaves), PLAN_MS)


@dataclass
class Bench:
    """A lane that is never started, and all that it works with."""

    clock: Clock
    worker: Worker
    scheduler: Scheduler
    stats: Noting
    faults: Faults
    licence: Licence
    library: PlanLibrary
    bounds: dict[str, Bounds] = field(default_factory=dict)
    lane: Lane = field(init=False)

    def send(self, *numbers: float) -> Future[Any]:
        """Queues one request of one row."""
        request = self.request(*numbers)
        self.stats.arrived(request)
        self.scheduler.submit(request)
        return request.future

    def request(self, *numbers: float) -> Request:
        now_ms, leaf = self.clock.now_ms, torch.tensor([numbers])
        return Request(
            (leaf,), {}, [leaf], 1, len(numbers), 0, 0, now_ms, now_ms + SLO_MS, refusable=True
        )

    def ruled(self) -> Ruling:
        """What the first fault came to that was noted."""
        self.faults.close()  # so that nobody waits where there is none
        ruling = self.faults.next()
        assert ruling is not None
        return ruling

    def record_batch(self) -> tuple[str, float, float]:
        """Of the last batch that ran: plan, elapsed and predicted ms."""
        note = self.stats.ran_so_far[-1]
        return note.plan, note.elapsed_ms, note.predicted_ms


@pytest.fixture
def bench() -> Bench:
    clock = Clock()
    model = Doubling(clock)
    form, _ = CallForm.of(model.forward, Example((torch.zeros(1, 4),), {}))
    captured = Capture(
        None, "made by hand", SIGNATURE, GRID, "graph", "weights", False, form=form,
        result=flatten(torch.zeros(1, 4))[1],
    )  # fmt: skip
    costs = CostTable(GRID, clock=clock)
    costs.seed(ORIGINAL, {Shape(1, 8): ORIGINAL_MS, Shape(4, 8): 20.0})
    costs.seed(PLAN.key, {Shape(1, 8): 2.0, Shape(4, 8): 5.0})
    library = PlanLibrary()
    library.put(PLAN)
    library.move(PLAN.key, PlanState.ADMITTED, "its price is known")
    window = Window(slo_ms=SLO_MS, workers=1, clock=clock)
    stats = Noting(window, costs, None, Savings(costs), Traffic(clock), lambda: clock.now_ms)
    stats.ran_so_far = []
    plans = (ORIGINAL, PLAN.key)
    scheduler = Scheduler(
        Tables(
            plans=plans, cost_ms=costs.matrix(plans), lengths=GRID.lengths,
            tier=np.zeros(2, np.int64), buckets_only=frozenset(), params=DEFAULT,
            lanes=1,
        ),
        limit=64, rate_per_s=window.arrival_per_s, now_ms=lambda: clock.now_ms, slo_ms=SLO_MS,
    )  # fmt: skip
    faults, licence = Faults(library, OutOfMemory(Path("none"))), Licence(Liberties(True, True))
    made = Bench(clock, Worker(clock), scheduler, stats, faults, licence, library)
    watch: Any = Unwatched()
    made.lane = Lane(
        0, made.worker,  # type: ignore[arg-type]
        Serving(
            scheduler, Original(model, captured, clock=clock), captured, stats, faults, licence,
            watch, made.bounds.get, Origins(library), TrafficSplit(library, clock), clock=clock,
        ),
    )  # fmt: skip
    return made


def of_plan(*numbers: float) -> list[list[float]]:
    return [[2 * number + THE_PLANS for number in numbers]]


def of_original(*numbers: float) -> list[list[float]]:
    return [[2 * number for number in numbers]]


def test_a_batch_is_noted_with_what_it_took_and_what_was_predicted_of_it(bench: Bench) -> None:
    answers = [bench.send(k, k) for k in range(4)]
    assert bench.lane.serve_next()
    assert [a.result(0).tolist() for a in answers] == [of_plan(k, k) for k in range(4)]
    plan, elapsed_ms, predicted_ms = bench.record_batch()
    assert plan == PLAN.key
    assert elapsed_ms == pytest.approx(PLAN_MS)
    assert predicted_ms == pytest.approx(5.0), "the price of four rows"
    assert bench.scheduler.depth()[2] == 0, "the lane is free again"
    assert bench.stats.counts()["met"] == 4
    assert bench.stats.costs.matrix([PLAN.key])[0, 3, 0] < 5.0, "and it was learnt from"


def test_a_lane_says_when_it_runs_another_plan_than_before(bench: Bench) -> None:
    for changed in (True, False):
        bench.send(1.0)
        bench.lane.serve_next()
        assert bench.stats.ran_so_far[-1].changed == changed


def test_who_can_no_longer_be_in_time_is_refused_and_told_how_long_it_waited(bench: Bench) -> None:
    late = bench.send(1.0)
    bench.clock.pass_ms(SLO_MS + 5.0)
    in_time = bench.send(2.0)
    assert bench.lane.serve_next()
    with pytest.raises(
        DeadlineExceeded,
        match=r"refused after 55\.0 ms: its deadline of 50 ms can no longer be met",
    ):
        late.result(0)
    assert in_time.result(0).tolist() == of_plan(2.0)
    counts = bench.stats.counts()
    assert (counts["refused"], counts["met"]) == (1, 1)


def test_a_request_that_its_owner_cancelled_is_not_computed(bench: Bench) -> None:
    cancelled, other = bench.send(1.0), bench.send(2.0)
    assert cancelled.cancel()
    bench.lane.serve_next()
    assert other.result(0).tolist() == of_plan(2.0)
    assert bench.stats.ran_so_far[-1].rows == 1


def test_what_was_put_together_under_a_liberty_withdrawn_since_runs_in_parts(bench: Bench) -> None:
    short, long = bench.send(1.0, 1.0), bench.send(2.0, 2.0, 2.0)
    bench.licence.withdraw("padding", "the watch saw it matter")
    assert bench.lane.serve_next()
    assert short.result(0).tolist() == of_plan(1.0, 1.0)
    assert long.result(0).tolist() == of_plan(2.0, 2.0, 2.0)
    assert bench.worker.lengths == [2, 3], "each at its own length"
    parts = [(note.rows, note.length, note.predicted_ms) for note in bench.stats.ran_so_far]
    both_ms = float(bench.scheduler.tables.cost_ms[1, 1, 0])
    assert parts == [(1, 2, both_ms / 2), (1, 3, both_ms / 2)]


def fails_with(error: BaseException) -> Callable[[Leaves], list[torch.Tensor]]:
    def fail(leaves: Leaves) -> list[torch.Tensor]:
        raise error

    return fail


@pytest.mark.parametrize("error", [PlanFault("staged"), ValueError("staged")])
def test_where_a_plan_fails_the_original_answers_and_the_fault_is_noted(
    bench: Bench, error: Exception
) -> None:
    bench.worker.behaves = fails_with(error)
    first, second = bench.send(1.0), bench.send(2.0)
    assert bench.lane.serve_next()
    assert [first.result(0).tolist(), second.result(0).tolist()] == [[[2.0]], [[4.0]]]
    assert bench.stats.counts()["retried"] == 2
    ruling = bench.ruled()
    assert (ruling.fault.lane, ruling.fault.plan, ruling.fault.worker) == (0, PLAN.key, None)
    assert ruling.fault.at_s == pytest.approx(100.0 + (PLAN_MS + 2 * ORIGINAL_MS) / 1e3)
    assert ruling.fault.original_works
    assert ruling.blamed
    assert "staged" in ruling.why
    assert bench.lane.worker is bench.worker, "it goes on"


def test_a_blamed_plan_gets_no_further_batch_whatever_the_tables_say(bench: Bench) -> None:
    bench.worker.behaves = fails_with(PlanFault("staged"))
    for number in (1.0, 2.0):
        answer = bench.send(number)
        bench.lane.serve_next()
        assert answer.result(0).tolist() == of_original(number)
    assert len(bench.worker.lengths) == 1
    assert bench.library.get(PLAN.key).state is PlanState.QUARANTINED  # type: ignore[union-attr]
    assert bench.record_batch()[:2] == (ORIGINAL, pytest.approx(ORIGINAL_MS))


def test_the_rest_of_a_batch_leaves_a_plan_that_failed_one_part_of_it(bench: Bench) -> None:
    bench.worker.behaves = fails_with(PlanFault("staged"))
    first, second = bench.send(1.0), bench.send(2.0, 2.0)
    bench.licence.withdraw("padding", "the watch saw it matter")
    bench.lane.serve_next()
    assert first.result(0).tolist() == of_original(1.0)
    assert second.result(0).tolist() == of_original(2.0, 2.0)
    assert bench.worker.lengths == [1], "the second part was never given to it"
    assert bench.stats.counts()["retried"] == 1


def test_a_request_that_the_original_cannot_answer_either_is_its_senders_own_fault(
    bench: Bench,
) -> None:
    bench.worker.behaves = fails_with(PlanFault("staged"))
    good, bad = bench.send(1.0), bench.send(13.0)
    bench.lane.serve_next()
    assert good.result(0).tolist() == of_original(1.0)
    with pytest.raises(ValueError, match="thirteen"):
        bad.result(0)
    ruling = bench.ruled()
    assert not ruling.blamed
    assert bench.library.get(PLAN.key).state is PlanState.ADMITTED  # type: ignore[union-attr]
    assert bench.stats.counts()["raised"] == 1


@pytest.mark.parametrize("error", [WorkerCrashed("worker-0", -11), WorkerHung("worker-0")])
def test_a_lane_lets_a_lost_worker_go_and_hands_it_on_with_the_fault(
    bench: Bench, error: PlanFault
) -> None:
    bench.worker.behaves = fails_with(error)
    answer = bench.send(1.0)
    bench.lane.serve_next()
    assert answer.result(0).tolist() == of_original(1.0)
    assert bench.lane.worker is None
    assert bench.lane.resident() == frozenset()
    ruling = bench.ruled()
    assert ruling.fault.worker is bench.worker
    answer = bench.send(2.0)
    bench.lane.serve_next()
    assert answer.result(0).tolist() == of_original(2.0), "served in this process meanwhile"


def test_only_who_was_given_a_nan_is_answered_again(bench: Bench) -> None:
    def nan_for_ones(leaves: Leaves) -> list[torch.Tensor]:
        return [torch.where(leaves[0] == 1.0, torch.nan, 2 * leaves[0] + THE_PLANS)]

    bench.worker.behaves = nan_for_ones
    odd, fine = bench.send(1.0), bench.send(2.0)
    bench.lane.serve_next()
    assert odd.result(0).tolist() == of_original(1.0)
    assert fine.result(0).tolist() == of_plan(2.0)
    assert bench.stats.counts()["retried"] == 1
    ruling = bench.ruled()
    assert ruling.blamed
    assert ruling.why == f"plan {PLAN.key} returned a NaN or an infinity"


def test_what_is_beyond_a_plans_bounds_is_the_originals_and_counts_as_the_plans_price(
    bench: Bench,
) -> None:
    small = Bound(0, 0, size=(0.0, 8.0), spread=(0.0, 16.0), zeros=True)
    bench.bounds[PLAN.key] = Bounds((small,))
    within, beyond = bench.send(1.0), bench.send(9.0)
    before_ms = bench.stats.costs.matrix([PLAN.key])[0, 0, 0]
    bench.lane.serve_next()
    assert within.result(0).tolist() == of_plan(1.0)
    assert beyond.result(0).tolist() == of_original(9.0)
    ruling = bench.ruled()
    assert isinstance(ruling.fault.error, PlanDeclined)
    assert not ruling.blamed
    assert bench.stats.costs.matrix([PLAN.key])[0, 0, 0] > before_ms, "12 ms where 2 were expected"


def test_a_fault_of_our_own_loses_neither_the_request_nor_the_lane(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("our own")

    monkeypatch.setattr(bench.licence.now.__class__, "apart", fail)
    answer = bench.send(1.0)
    assert bench.lane.serve_next()
    with pytest.raises(RuntimeError, match="our own"):
        answer.result(0)
    monkeypatch.undo()
    answer = bench.send(2.0)
    assert bench.lane.serve_next()
    assert answer.result(0).tolist() == of_plan(2.0)


def test_a_caller_that_computes_by_itself_is_noted_alike(bench: Bench) -> None:
    assert bench.scheduler.claim() == 0
    assert bench.lane.answer_here(bench.request(3.0)).tolist() == of_plan(3.0)
    assert bench.record_batch() == (PLAN.key, pytest.approx(PLAN_MS), pytest.approx(2.0))
    bench.worker.behaves = fails_with(PlanFault("staged"))
    assert bench.lane.answer_here(bench.request(3.0)).tolist() == of_original(3.0)
    ruling = bench.ruled()
    assert ruling.blamed
    bench.scheduler.release(0)


def test_a_closed_scheduler_ends_the_lane(bench: Bench) -> None:
    bench.scheduler.close()
    assert not bench.lane.serve_next()
