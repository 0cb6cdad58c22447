"""A day of traffic in minutes, and what became of each request of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from evolve.demo.load import Outcome, Phase, arrivals, drive
from supernet.capture.calls.pytree import flatten

if TYPE_CHECKING:
    from evolve.runtime import Runtime

__all__ = ["BEGINS", "HOURS", "Day", "Lived", "live", "part"]

Request = Mapping[str, torch.Tensor]

BEGINS = 21
HOURS = (
    0.15, 0.08, 0.04, 0.03, 0.02, 0.02, 0.02, 0.02, 0.03, 0.05, 0.15, 0.45,
    0.85, 0.95, 1.00, 0.90, 0.80, 0.95, 1.00, 0.90, 0.75, 0.60, 0.40, 0.25,
)  # fmt: skip
"""Load of each hour from nine in the evening on, as a share of the busiest: a quiet night, in which
there is time to learn, and two peaks by day."""
_SAMPLES = 800
"""Answers that are held against the model's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """Request `i`, one of `texts` in turn, leaves at `sent_s[i]`; the whole day takes `seconds`."""

    texts: Sequence[Request]
    sent_s: npt.NDArray[np.float64]
    seconds: float

    @staticmethod
    def of(
        texts: Sequence[Request], seconds: float, peak_per_s: float, *, seed: int,
        hours: Sequence[float] = HOURS,
    ) -> Day:  # fmt: skip
        """Poisson within each hour; `hours`: of each its load as a share of the peak."""
        length_s = seconds / len(hours)
        phases = [Phase(length_s, share * peak_per_s) for share in hours]
        return Day(texts, arrivals(phases, seed=seed), seconds)


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """What came of a day. `by[i]` is the number in `names` of who answered request `i` (0: the
    model itself), -1 for nobody; `agreement` of some answers with the model's own, by request."""

    outcome: Outcome
    names: tuple[str, ...]
    by: npt.NDArray[np.int64]
    agreement: Mapping[int, float]

    @property
    def failed(self) -> int:
        return int(self.outcome.failed.sum())


def live(
    runtime: Runtime,
    model: torch.nn.Module,
    day: Day,
    on_second: Callable[[float], None] = lambda elapsed_s: None,
) -> Lived:
    """Sends the whole day and waits for its end."""
    count = len(day.sent_s)
    names, by = {"": 0}, np.full(count, -1, np.int64)

    def note(index: int, future: Future[Any]) -> None:
        origin = getattr(future, "served_by", None)
        if future.exception() is None and origin is not None:
            by[index] = names.setdefault(origin.subnet or "", len(names))

    def submit(index: int) -> Future[Any]:
        future = runtime.submit(**day.texts[index % len(day.texts)])
        future.add_done_callback(partial(note, index))
        return future

    every = max(1, count // _SAMPLES)
    outcome = drive(submit, day.sent_s, keep=lambda i: i % every == 0, on_second=on_second)
    agreement = {
        i: agrees(model, day.texts[i % len(day.texts)], answer)
        for i, answer in sorted(outcome.kept.items())
    }
    return Lived(outcome, tuple(names), by, agreement)


def agrees(model: torch.nn.Module, request: Request, answer: Any) -> float:
    """The least cosine of an answer's outputs with the model's own, from 0."""
    with torch.no_grad():
        own = model(**request)
    cosines = [
        torch.cosine_similarity(got.reshape(1, -1), want.reshape(1, -1)).item()
        for got, want in zip(flatten(answer)[0], flatten(own)[0], strict=True)
    ]
    return max(0.0, min(cosines))


def part(lived: Lived, slo_ms: float, begin_s: float, end_s: float) -> dict[str, float]:
    """The figures of a part of the day: shares are of all requests sent in it."""
    outcome = lived.outcome
    own = (outcome.sent_s >= begin_s) & (outcome.sent_s < end_s)
    answered = own & ~outcome.refused & ~outcome.failed
    if not own.any():
        return {}
    agreement = [value for i, value in lived.agreement.items() if own[i]]
    return {
        "offered_per_s": float(own.sum()) / (end_s - begin_s),
        "met": float(outcome.met(slo_ms)[own].mean()),
        "p99_ms": float(np.quantile(outcome.latency_ms[answered], 0.99)) if answered.any()
        else float("nan"),
        "by_tiers": float((lived.by[own] > 0).mean()),
        "agreement": float(np.mean(agreement)) if agreement else float("nan"),
    }  # fmt: skip
