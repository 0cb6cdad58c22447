"""The control plane's first part: builds plans beside the serving process and admits them.

One thread supervises; the building itself happens in niced processes of their own
(`supernet.build`), so that killing one at any moment costs nothing but that build.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolve.errors import PlanFault
from supernet.plans import PlanState

if TYPE_CHECKING:
    from supernet.plans import Plan, PlanLibrary, PlanSpec

__all__ = ["Brain", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the building is: `done` of `total` plans, and what the current one does."""

    done: int
    total: int
    plan: str
    stage: str
    share: float


class Brain:
    """Builds `specs` in order, once, and hands each admitted plan over.

    Args:
        specs: What to build, most promising first.
        build: Builds, verifies and measures one (blocking), calling (stage, share) on the way.
        library: Every outcome is put here.
        admit: Makes an admitted plan resident; may raise `PlanFault`.
        said: Told, for the journal, (plan key, before, after, reason).
    """

    def __init__(
        self,
        specs: Sequence[PlanSpec],
        build: Callable[[PlanSpec, Callable[[str, float], None]], Plan],
        library: PlanLibrary,
        admit: Callable[[Plan], None],
        said: Callable[[str, str, str, str], None],
    ) -> None:
        self._specs = tuple(specs)
        self._build = build
        self._library = library
        self._admit = admit
        self._said = said
        self._stop = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="brain", daemon=True)
        self.progress = Progress(0, len(self._specs), "", "waiting", 0.0)

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout_s: float | None) -> bool:
        """Blocks until every plan was tried; False when the time ran out first."""
        return self._done.wait(timeout_s)

    def stop(self) -> None:
        """No further build is started; the caller kills the one under way."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            for number, spec in enumerate(self._specs):
                if self._stop.is_set():
                    return
                self._one(number, spec)
        finally:
            total = len(self._specs)
            self.progress = Progress(total, total, "", "done", 1.0)
            self._done.set()

    def _one(self, number: int, spec: PlanSpec) -> None:
        def on_progress(stage: str, share: float) -> None:
            self.progress = Progress(number, len(self._specs), spec.key, stage, share)

        on_progress("starting", 0.0)
        try:
            plan = self._build(spec, on_progress)
        except Exception as error:
            # Whatever goes wrong with one build must not end the others, nor the service.
            self._said(spec.key, "proposed", "failed", f"{type(error).__name__}: {error}")
            return
        if self._stop.is_set():
            return
        self._library.put(plan)
        if plan.state is PlanState.ADMITTED:
            try:
                self._admit(plan)
            except PlanFault as fault:
                self._library.quarantine(spec.key, str(fault))
                self._said(spec.key, plan.state.value, "quarantined", str(fault))
                return
        self._said(spec.key, "proposed", plan.state.value, plan.reason)
