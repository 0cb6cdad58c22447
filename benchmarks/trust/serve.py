"""One case, served by a runtime and judged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import evolve
from benchmarks.trust.cases import Call, Case
from benchmarks.trust.draw import CAP
from benchmarks.trust.judge import Answer, Judge, Raised, Truth, repeated, truths
from benchmarks.trust.sending import LOST_S, send

__all__ = ["Outcome", "Setting", "Wrong", "serve"]

MAX_ERROR = 0.005
SLO = evolve.SLO(p99_ms=20_000.0, max_error=MAX_ERROR)
EARLY = 0.15  # of the requests are sent while plans are still being built
BUILT_S = 240.0
NOTICED_S = 2.0  # for moves that nobody announces; twenty ticks
_REFUSED = ("DeadlineExceeded", "QueueFull")


@dataclass(frozen=True, slots=True)
class Setting:
    """How cases are served. Without ``backends`` nothing is built, and the original serves."""

    cache: Path
    backends: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    workers: str = "thread"

    def config(self) -> evolve.Config:
        plans: dict[str, object] = {"build": False}
        if self.backends:
            plans = {"backends": self.backends, "precisions": self.precisions}
            plans |= {"cache_dir": self.cache, "budget_s": BUILT_S}
        plans["max_rows"] = CAP
        return evolve.Config().replace(plans=plans, workers={"kind": self.workers})


@dataclass(frozen=True, slots=True)
class Wrong:
    """One answer that was not the model's own. ``silent``: an answer came all the same."""

    request: int
    note: str
    what: str
    silent: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the requests of one case.

    ``capture``, ``batching`` and ``padding`` as the runtime tells them; ``by_plans``: rows that
    another plan than the original answered; ``unserved``: what `wrap` raised, or "".
    """

    requests: int
    wrong: tuple[Wrong, ...] = ()
    lost: int = 0
    refused: int = 0
    unserved: str = ""
    capture: str = ""
    batching: str = ""
    padding: str = ""
    by_plans: int = 0
    plans: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def serve(case: Case, setting: Setting) -> Outcome:
    """Wraps the case's model, sends its requests, and judges every answer."""
    began = time.monotonic()
    early, half = round(len(case.requests) * EARLY), len(case.requests) // 2
    moving = case.move is not None
    due = truths(case.model, case.requests[: half if moving else None], case.check)
    try:
        runtime = evolve.wrap(
            case.model, [call.example for call in case.examples], slo=SLO, config=setting.config()
        )
    except Exception as error:
        return Outcome(0, unserved=f"{type(error).__name__}: {error}"[:300])
    try:
        answers = _send(runtime, case, case.requests[:early])
        runtime.wait_for_plans(BUILT_S)
        answers += _send(runtime, case, case.requests[early : len(due)])
        wrong = _judged(case, 0, answers, due)
        if case.move is not None and None not in answers:
            _move(runtime, case)
            due = truths(case.model, case.requests[half:], case.check)
            moved = _send(runtime, case, case.requests[half:])
            wrong += _judged(case, half, moved, due)
            answers += moved
        found = _found(runtime)
    finally:
        closed = _ends(runtime.close)
    lost = sum(answer is None for answer in answers) + (not closed)
    refused = sum(_refused(answer) for answer in answers)
    seconds = time.monotonic() - began
    return Outcome(len(answers), tuple(wrong), lost, refused, seconds=seconds, **found)


def _send(runtime: evolve.Runtime, case: Case, calls: Sequence[Call]) -> list[Answer | None]:
    return send(runtime, calls, in_order=case.check == "serial")


def _move(runtime: evolve.Runtime, case: Case) -> None:
    assert case.move is not None
    case.move(case.model)
    refresh: Callable[[], object] | None = getattr(runtime, "refresh", None)
    if case.announced and refresh is not None:
        refresh()
    else:
        time.sleep(NOTICED_S)


def _judged(
    case: Case, first: int, answers: Sequence[Answer | None], due: Sequence[Truth]
) -> list[Wrong]:
    """The wrong answers among those that came; ``first`` is the number of the first request."""
    judge = Judge(due, MAX_ERROR)
    told: Iterator[tuple[int, str | None]]
    if case.check == "random":
        told = iter(repeated(answers, case.requests, due))
    else:
        told = (
            (index, judge.wrong(answer, truth))
            for index, (answer, truth) in enumerate(zip(answers, due, strict=False))
            if answer is not None and not _refused(answer)
        )
    return [
        Wrong(first + index, case.requests[first + index].note, what, _silent(answers[index]))
        for index, what in told
        if what is not None
    ]


def _silent(answer: Answer | None) -> bool:
    return answer is not None and not isinstance(answer.value, Raised)


def _refused(answer: Answer | None) -> bool:
    value = answer.value if answer is not None else None
    return isinstance(value, Raised) and value.type in _REFUSED


def _found(runtime: evolve.Runtime) -> dict[str, Any]:
    """What the runtime tells of the capture and of who answered."""
    status = runtime.status()
    rows = status["rows_by_plan"]
    capture = status["capture"]
    if not isinstance(capture, Mapping):  # told as one line, which says nothing of batching
        signature = runtime.parts.serving.capture.signature
        capture = {
            "program": capture,
            "batching": {"status": "on" if signature.batchable else "off"},
            "padding": {"status": "on" if signature.paddable else "off"},
        }
    return {
        "capture": str(capture["program"]),
        "batching": str(capture["batching"]["status"]),
        "padding": str(capture["padding"]["status"]),
        "by_plans": sum(count for plan, count in rows.items() if plan != "original"),
        "plans": {plan: str(state) for plan, state in status["plans"].items()},
    }


def _ends(close: Callable[[], None]) -> bool:
    """Whether it returns in time."""
    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(LOST_S)
    return not thread.is_alive()
