"""A capture: what it brings to a runtime, and the two ways to make it, here or beside serving."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evolve.data_plane.original import Original
from evolve.data_plane.weights import StateKey, Weights, unlike
from profiler.shapes import Shape
from supernet.capture.handover import from_plain, read_capture, to_plain, write_capture
from supernet.capture.stored import find
from supernet.capture.subject import original_only
from supernet.errors import BuildFailed, BuildInterrupted, WrongArgument
from supernet.jobs.forking import ForkedChild, can_fork

if TYPE_CHECKING:
    from supernet.cache import ArtifactCache
    from supernet.capture.subject import Capture, Subject
    from supernet.jobs.forking import Say

__all__ = ["CaptureBeside", "CaptureResult", "can_be_beside", "capture_here", "stand_in"]

_POLL_S = 0.1
_TRACER = ("torch._dynamo", "torch.export._trace", "torch._functorch.aot_autograd")


@dataclass(frozen=True, slots=True, eq=False)
class CaptureResult:
    """A capture, and what else was learned where nobody was served meanwhile.

    `flops` of one row by shape. `restless` is what the model's own forward changes. `stored` gives
    the folder of the captured program in the cache; None: it is still to be written there.
    """

    capture: Capture
    flops: Mapping[Shape, float] = field(default_factory=dict)
    restless: frozenset[StateKey] = frozenset()
    stored: Callable[[ArtifactCache], Path] | None = None


def stand_in(
    model: torch.nn.Module, reason: str, *, needs_gradients: bool = False
) -> CaptureResult:
    """Nothing is known of `model`: the original serves, and `reason` says why."""
    nothing = original_only(model, reason, hashed=False)
    return CaptureResult(dataclasses.replace(nothing, needs_gradients=needs_gradients))


def capture_here(subject: Subject, max_rows: int) -> CaptureResult:
    """Captures in the calling thread. Tracing patches torch for the whole process, and counting
    FLOPs switches kernels: nobody may be served meanwhile."""
    if subject.probe is None:
        subject.answer()
    seen = Weights(subject.probe.model) if subject.probe is not None else None
    captured = subject.capture(max_rows)
    restless: frozenset[StateKey] = frozenset()
    if subject.probe is not None and seen is not None:
        restless = seen.changed() | unlike(subject.model, subject.probe.model)
    return CaptureResult(captured, Original(subject.model, captured).flops(), restless)


def can_be_beside(subject: Subject) -> bool:
    """Whether `subject` can be captured in a fork of this process: only the CPU survives one."""
    tensors = (*subject.model.parameters(), *subject.model.buffers())
    on_cpu = subject.device == "cpu" and all(tensor.device.type != "cuda" for tensor in tensors)
    return on_cpu and can_fork() and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


class CaptureBeside:
    """A capture under way in a fork of this process, which serves meanwhile.

    `found` holds what came of it: a `CaptureResult`, `WrongArgument` where the model refuses an
    example, `BuildFailed` with the reason where there is no capture, `BuildInterrupted` after
    `stop`.

    Args:
        subject, max_rows: What to capture.
        keep: Puts the captured program into the cache, in the child; None: nobody needs it.
        threads: That the child computes with; None: as many as this process.
        limit_s: After which the child is ended; once more as long for keeping the program.
    """

    def __init__(
        self,
        subject: Subject,
        max_rows: int,
        *,
        keep: Callable[[CaptureResult], None] | None,
        threads: int | None,
        limit_s: float,
    ) -> None:
        self._subject, self._max_rows = subject, max_rows
        self._keep, self._threads, self._limit_s = keep, threads, limit_s
        self._stop = threading.Event()
        self._gives_way = threading.Event()
        self.found: Future[CaptureResult] = Future()
        self._kept: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def give_way(self) -> None:
        """From now on somebody is served meanwhile."""
        self._gives_way.set()

    def stop(self) -> None:
        """Ends the child."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            for name in _TRACER:  # imported once here, rather than in every child
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            for last in (False, True):
                with tempfile.TemporaryDirectory(prefix="evolve-capture-") as folder:
                    if self._attempt(Path(folder), last=last):
                        return
        except BaseException as error:
            for future in (self.found, self._kept):
                if not future.done():
                    future.set_exception(error)

    def _attempt(self, folder: Path, *, last: bool) -> bool:
        """Whether this child was enough. A lock that another thread held at the fork, on which
        the child waits for ever, is free at the next."""
        until_s = time.monotonic() + self._limit_s
        child = ForkedChild(partial(self._work, folder), folder / "errors")
        try:
            for message in child.lines(_POLL_S):
                if message is not None and self._take_up(message, folder):
                    until_s = time.monotonic() + self._limit_s
                if self._stop.is_set():
                    raise BuildInterrupted("the capture was stopped")
                if self._gives_way.is_set():
                    child.give_way()
                if child.stands_still():
                    if not last and not self.found.done():
                        return False
                    raise BuildFailed("its capture waits for something that never comes")
                if time.monotonic() > until_s:
                    raise BuildFailed(f"its capture took longer than {self._limit_s:g} s")
        finally:
            child.end()
        if not self._kept.done():
            raise BuildFailed(f"its capture failed: {child.why()}")
        return True

    def _take_up(self, message: Mapping[str, Any], folder: Path) -> bool:
        """Notes what the child says; True where a new stage began."""
        if "refused" in message:
            raise WrongArgument(message["refused"])
        if "kept" in message:
            self._kept.set_result(None)
            return False
        captured = read_capture(folder, self._subject)
        rest = from_plain(message["captured"])
        stored = partial(self._stored, captured) if captured.exported else None
        self.found.set_result(CaptureResult(captured, stored=stored, **rest))
        return True

    def _stored(self, captured: Capture, cache: ArtifactCache) -> Path:
        """Waits for the child to have kept the program; called by the plan builder."""
        self._kept.result()
        entry = find(cache, captured)
        if entry is None:
            raise OSError(f"the capture just stored in {cache.root} cannot be read back")
        return entry

    def _work(self, folder: Path, say: Say) -> None:
        """In the child."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            found = capture_here(self._subject, self._max_rows)
        except WrongArgument as error:
            say({"refused": str(error)})
            return
        write_capture(found.capture, folder)
        say({"captured": to_plain({"flops": dict(found.flops), "restless": found.restless})})
        if found.capture.exported and self._keep is not None:
            self._keep(found)
        say({"kept": True})
