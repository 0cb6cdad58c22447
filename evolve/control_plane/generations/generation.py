"""The strategic loop: every five minutes, smaller sub-networks are sought, trained and adopted.

    live inputs, twin, state ──► process: search, train ──► tiers ──► Adoptions ──► the rollout
      (a memfd)   (a folder)     stands still while                      │           decides
                                 requests are served                     └─ those that they replace
                                                                            go once they serve
One thread waits. A generation that would begin while another one runs is skipped, never queued.
What came of each is in the journal; whatever is killed costs that generation and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.control_plane.generations.evolving import why_not
from evolve.control_plane.generations.findings import Findings, what_was_seen
from evolve.control_plane.generations.found_tiers import FoundTiers
from evolve.control_plane.generations.state import GenerationState, InUse
from evolve.evolution.generation_job import limit_s
from evolve.journal.journal import JournalError
from evolve.monitoring.reservoir import handed_over
from supernet.jobs.errors import JobCancelled, JobRefused
from supernet.jobs.process import Terms

if TYPE_CHECKING:
    from evolve.control_plane.generations.evolving import Evolving
    from evolve.monitoring.reservoir import Inputs
    from supernet.cache import ArtifactCache
    from supernet.jobs.progress import Stage

__all__ = ["Generations"]

LOOK_S = 1.0
"""Between two looks at tiers that are on trial."""
MOST_S = 3600.0
PATIENCE = 3
"""Generations in a row that fail before the next ones come less and less often."""


class Generations:
    """Begins a generation every `evolution.every_s`; idle where there is to be none.

    Args:
        evolving: What it works on.
        clock: Seconds, monotonic.
        wait: Blocks for so many seconds, by that clock; whether all is to end.
    """

    def __init__(
        self,
        evolving: Evolving,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._on, self._clock = evolving, clock
        self._settings = evolving.config.evolution
        self._stop = threading.Event()
        self._wait = self._stop.wait if wait is None else wait
        slo = evolving.setup.slo
        self._found = FoundTiers(evolving.adoptions, evolving.tiers, slo.min_quality)
        self._why_not = why_not(slo, evolving.config, evolving.setup.capture)
        self._held: tuple[GenerationState, ArtifactCache] | None = None
        self._due_s = clock() + self._settings.every_s
        self._count = self._failures = 0
        self._stage = self._trouble = self._skipped = ""
        self._last = "none was begun yet"
        self._thread = threading.Thread(target=self.run, name="generations", daemon=True)

    def start(self) -> None:
        if self._why_not is None:
            self._thread.start()

    def stop(self) -> None:
        """Ends the generation under way and begins no other."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def status(self) -> dict[str, Any]:
        """How many there were, when the next is due, what the last came to, why one that was due
        since was skipped; JSON-able."""
        reservoir, off = self._on.reservoir, self._why_not
        return {
            "state": "off" if off else "generating" if self._stage else "waiting",
            "generations": self._count,
            "next_in_s": None if off else max(0.0, self._due_s - self._clock()),
            "stage": self._stage,
            "last": off or self._last,
            "skipped": self._skipped,
            "inputs": 0 if reservoir is None else len(reservoir),
            "inputs_mib": 0.0 if reservoir is None else reservoir.mib,
            "tiers": list(self._found.names),
        }

    # -- its thread ----------------------------------------------------------------------------

    def run(self) -> None:
        """Until `stop`."""
        try:
            self._guarded(self._resume)
            while not (self._wait(self._nap_s()) or self._stop.is_set()):
                self._guarded(self._settle)
                if self._clock() >= self._due_s:
                    self.generate()
                    if not self._stop.is_set():
                        self._next()
        except JournalError:  # all was closed meanwhile
            return

    def _guarded(self, what: Callable[[], None]) -> None:
        try:
            what()
            self._trouble = ""
        except JournalError:
            raise
        except Exception as error:  # the service goes on, and so do later generations
            trouble, self._trouble = self._trouble, _line(error)
            if self._trouble != trouble:  # it is tried again every second
                self._say(f"what was found before stays as it is: {self._trouble}")

    def _nap_s(self) -> float:
        left_s = max(0.0, self._due_s - self._clock())
        return min(LOOK_S, left_s) if self._found.is_moving() else left_s

    def _next(self) -> None:
        """When the next is due: on the grid of the interval, so that a late one is passed over."""
        interval_s = self._settings.every_s
        if self._failures >= PATIENCE and interval_s < MOST_S:
            interval_s = min(MOST_S, interval_s * 2.0 ** (self._failures - PATIENCE + 1))
        over_s = self._clock() - self._due_s
        missed = int(over_s // interval_s)
        self._due_s += (missed + 1) * interval_s
        if missed:
            self._say(f"skipped {missed}: the one before was under way for {over_s:.0f} s")

    def _opened(self) -> tuple[GenerationState, ArtifactCache]:
        """The state, and the cache that holds it."""
        if self._held is None:
            cache = self._on.setup.open_cache(lambda entry, why: None)
            self._held = GenerationState(cache, self._key()), cache
        return self._held

    def _key(self) -> str:
        setup = self._on.setup
        return f"{setup.capture.graph_hash[:24]}-{setup.slo.agreement}"

    def _resume(self) -> None:
        """Adopts again what was when the last process ended, without another search."""
        cache = self._on.setup.open_cache(lambda entry, why: None)
        if not GenerationState.exists(cache, self._key()):
            return
        names = self._found.resume(self._opened()[0].read())
        if names:
            self._on.journal.append(
                "generation", "0", policy="strategic", after={"tiers": {n: {} for n in names}},
                reason="adopted again: an earlier run had found them for these weights",
            )  # fmt: skip

    def _settle(self) -> None:
        if self._found.names:
            self._found.settle(self._opened()[0])

    def generate(self) -> bool:
        """One generation, from what is known now; whether there was one to the end."""
        self._skipped = self._not_now() or ""
        if self._skipped:
            self._say(f"skipped: {self._skipped}")
            return False
        self._stage = "starting"
        try:
            self._generate(self._inputs())
            self._failures = 0
            return True
        except (InUse, _Outdated, JobCancelled) as stopped:  # nobody's fault
            how = "skipped" if isinstance(stopped, InUse) else "thrown away"
            self._last = self._say(f"{how}: {stopped}")
        except JobRefused as refused:
            self._failures += 1
            self._last = self._say(f"refused: {refused}")
        except JournalError:
            raise
        except Exception as error:  # a job that fails, a full disk, an answer that is none
            self._failures += 1
            self._last = self._say(f"came to nothing: {_line(error)}")
        finally:
            self._stage = ""
        return False

    def _inputs(self) -> tuple[Inputs, ...]:
        return () if self._on.reservoir is None else self._on.reservoir.snapshot()

    def _not_now(self) -> str | None:
        if not (self._on.builder.wait(0.0) and self._on.tiers.wait(0.0)):
            return "plans are still being built"
        least, kept = self._settings.min_inputs, len(self._inputs())
        if kept < least:
            return f"{kept} inputs were kept so far, {least} are needed"
        return None

    def _generate(self, inputs: tuple[Inputs, ...]) -> None:
        state, cache, on = *self._opened(), self._on
        with state.locked(), cache.scratch() as scratch, handed_over(inputs) as path:
            self._count += 1
            version, before = on.weights(), self._found.names
            twin = on.twin()
            request = on.request(cache, state, scratch, path, twin, self._count)
            result = on.job(request, self._terms(scratch))
            found = Findings.of(result, Path(request.out), self._settings.most_tiers)
            if self._stop.is_set() or on.weights() != version:
                raise _Outdated("the model's weights moved meanwhile")
            notes = self._found.take(found.proposals, state)
        self._last = on.journal.append(
            "generation", str(self._count), policy="strategic",
            seen=what_was_seen(len(inputs), twin), **found.story(before, self._found.names, notes),
        ).reason  # fmt: skip

    def _terms(self, scratch: Path) -> Terms:
        def on_progress(stage: Stage) -> None:
            self._stage = stage.name

        # Of one thread: only then its budget can stand still with it.
        return Terms(
            scratch, limit_s(self._settings.budget_s), on_progress=on_progress,
            cancelled=self._stop.is_set, pauses=self._on.pauses,
        )  # fmt: skip

    def _say(self, reason: str) -> str:
        """Puts on record that nothing came of one, and why."""
        tiers: dict[str, Any] = {name: {} for name in self._found.names}
        self._on.journal.append(
            "generation", str(self._count), policy="strategic", before={"tiers": tiers},
            after={"tiers": tiers}, seen=what_was_seen(len(self._inputs()), None), reason=reason,
            applied=False,
        )  # fmt: skip
        return reason


class _Outdated(Exception):
    """What was found is for weights that the model no longer has."""


def _line(error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"
