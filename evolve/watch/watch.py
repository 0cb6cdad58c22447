"""Live answers compared with the original's, for as long as the service lives.

    lane ── sample ─► answers leave ── offer ─► queue ─► Judge ─► liberty off, or plan quarantined
            (copies)                           bounded     │
                                       when nothing waits, or within 2 % of the lanes' time

What experiments found harmless and what was verified on examples can still be wrong for the inputs
that come. The caller's thread and the lanes only copy; everything else happens on a thread that
nobody waits for.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evolve.watch.judge import Judgement, NotJudged
from evolve.watch.samples import Sample, choose, keep, rate
from supernet.plans import ORIGINAL

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.data_plane.request_queue import Request
    from evolve.watch.judge import Judge

__all__ = ["Watch", "Watched"]

MAX_SAMPLES = 64
MAX_MIB = 32.0
STALE_AFTER_S = 60.0
BUSY_SHARE = 0.02
MAX_CREDIT_S = 1.0
LOOK_EVERY_S = 0.01
QUIET_S = 30.0  # a check that takes longer hangs, as far as anybody can tell


@dataclass(frozen=True, slots=True)
class Watched:
    """Which liberties are watched: those that are not proven. Every plan is."""

    batching: bool = True
    padding: bool = True


class Watch:
    """Samples what lanes answered and has it judged.

    Args:
        judge: Compares one sample with the original.
        watched: Which liberties need it.
        act: Turns off what a verdict names, and says so.
        on_event: Told, for the journal, of what happens to the watch itself.
        idle: Whether the service has nothing to do, and had nothing for a while.
        weights: Something that changes when the model's weights do: answers from before are not
            comparable then.
    """

    def __init__(
        self,
        judge: Judge,
        watched: Watched,
        *,
        act: Callable[[Sample, Judgement], None],
        on_event: Callable[[str], None],
        idle: Callable[[], bool],
        weights: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._judge, self._watched = judge, watched
        self._act, self._on_event = act, on_event
        self._idle, self._weights = idle, weights
        self._clock = clock
        self._rng = rng or random.Random()
        self._lock = threading.Condition()
        self._queue: deque[Sample] = deque()
        self._mib = 0.0
        self._credit_s = 0.0
        self._checked: Counter[tuple[str, str]] = Counter()
        self._shares: dict[tuple[str, str], float] = {}
        self._offered = 0
        self._counts: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._weights_seen = weights()
        self._began_s: float | None = None
        self._stopped = False
        self._quiet = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    # -- on the lanes --------------------------------------------------------------------------

    def sample(
        self,
        plan: str,
        requests: Sequence[Request],
        inputs: Sequence[Tensor],
        length: int,
        answers: Sequence[Sequence[Tensor]],
        elapsed_ms: float,
    ) -> list[Sample]:
        """What is kept of a batch that ran, copied before its callers have their answers.

        Never raises: a sample that can't be taken is counted. Hand it to `offer` once the
        answers left.
        """
        try:
            at_stake = self._at_stake(plan, requests, length)
            if not at_stake:
                return []
            with self._lock:
                self._offered += len(requests)
                self._credit_s += BUSY_SHARE * elapsed_ms / 1e3
            share = max([self._shares.get(thing, 1.0) for thing in at_stake])
            chosen = choose(requests, share, self._rng)
            if not chosen:
                return []
            full = len(self._queue) >= MAX_SAMPLES or self._mib >= MAX_MIB
            if full or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
                self._skip("busy" if full else "autocast", len(chosen))
                return []
            return keep(plan, requests, chosen, inputs, length, answers, self._clock())
        except Exception as error:
            self._skip(f"not copied: {type(error).__name__}", 1)
            return []

    def keep(
        self, plan: str, requests: Sequence[Request], inputs: Sequence[Tensor], length: int
    ) -> Sample | None:
        """One of a batch that ran on another plan, to be tried on `plan`; None where there is no
        room for more. Never raises, as `sample`."""
        try:
            if len(self._queue) >= MAX_SAMPLES or self._mib >= MAX_MIB:
                return None
            chosen = [self._rng.randrange(len(requests))]
            none: list[list[Tensor]] = [[] for _ in requests]
            return keep(plan, requests, chosen, inputs, length, none, self._clock())[0]
        except Exception as error:
            self._skip(f"not copied: {type(error).__name__}", 1)
            return None

    def offer(self, samples: Sequence[Sample]) -> None:
        """Queues samples whose answers left; those that find no room are counted."""
        if not samples:
            return
        with self._lock:
            for sample in samples:
                # One alone may be larger than the room: no model is too large to be watched.
                fits = not self._queue or self._mib + sample.mib <= MAX_MIB
                if fits and len(self._queue) < MAX_SAMPLES and not self._stopped:
                    self._queue.append(sample)
                    self._mib += sample.mib
                else:
                    self._skipped["busy"] += 1
            self._lock.notify()

    def _at_stake(
        self, plan: str, requests: Sequence[Request], length: int
    ) -> list[tuple[str, str]]:
        things = [] if plan == ORIGINAL else [(plan, "plan")]
        if self._watched.batching and len(requests) > 1:
            things.append((plan, "batching"))
        padded = requests[0].length < length or len({r.length for r in requests}) > 1
        if padded and self._watched.padding:
            things.append((plan, "padding"))
        return things

    def _skip(self, why: str, samples: int) -> None:
        with self._lock:
            self._skipped[why] += samples

    # -- beside them ---------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Checks nothing more; a check under way is not waited for."""
        with self._lock:
            self._stopped = True
            self._drop("closed")
            self._lock.notify()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped:
            wait_s = self.step()
            with self._lock:
                if not self._stopped:
                    self._lock.wait(wait_s)

    def step(self) -> float | None:
        """Checks at most one sample; seconds until the next is due, None when one is offered."""
        if (idle := self._may_begin()) is None:
            return LOOK_EVERY_S
        with self._lock:
            if (sample := self._next()) is None:
                return None
            self._began_s = began_s = self._clock()
        try:
            self._check(sample)
        except Exception as error:  # the watch must outlive whatever it looks at
            self._skip(f"not judged: {type(error).__name__}", 1)
        finally:
            spent_s = self._clock() - began_s
            with self._lock:
                self._began_s = None
                self._credit_s -= 0.0 if idle else spent_s
        # Never more than half of the idle time: who comes next finds the machine free.
        return max(spent_s, LOOK_EVERY_S)

    def _may_begin(self) -> bool | None:
        """True when nobody waits, False when it is taken from the lanes' time, else None."""
        if self._idle():
            return True
        with self._lock:
            self._credit_s = min(self._credit_s, MAX_CREDIT_S)
            return False if self._credit_s > 0 else None

    def _next(self) -> Sample | None:
        """The oldest sample that is not stale; the lock is held."""
        oldest_s = self._clock() - STALE_AFTER_S
        while self._queue:
            sample = self._queue.popleft()
            self._mib = self._mib - sample.mib if self._queue else 0.0
            if sample.taken_s >= oldest_s:
                return sample
            self._skipped["stale"] += 1
        return None

    def _check(self, sample: Sample) -> None:
        if self._have_weights_moved():
            self._skip("weights moved", 1)
            return
        try:
            verdict = self._judge.check(sample)
        except NotJudged as why:
            self._skip(f"not judged: {why}", 1)
            return
        if verdict is not None and self._have_weights_moved():
            self._skip("weights moved", 1)
            return
        with self._lock:
            self._counts["checked"] += 1
            if verdict is None:
                for thing in self._clean(sample):
                    self._checked[thing] += 1
                    self._shares[thing] = rate(self._checked[thing])
                return
            self._counts["mismatches"] += 1
            self._drop("after a mismatch")
        self._act(sample, verdict)

    def _have_weights_moved(self) -> bool:
        """Drops what was answered before they did: it was right, and is no longer."""
        seen = self._weights()
        if seen == self._weights_seen:
            return False
        with self._lock:
            self._weights_seen = seen
            self._drop("weights moved")
        return True

    def _clean(self, sample: Sample) -> list[tuple[str, str]]:
        things = [] if sample.plan == ORIGINAL else [(sample.plan, "plan")]
        things += [(sample.plan, "batching")] if sample.batched else []
        return things + ([(sample.plan, "padding")] if sample.padded else [])

    def _drop(self, why: str) -> None:
        """Empties the queue; the lock is held."""
        self._skipped[why] += len(self._queue)
        self._queue.clear()
        self._mib = 0.0

    # -- looking inside ------------------------------------------------------------------------

    def check(self) -> None:
        """Says once when the watch itself stands still; called on every tick."""
        quiet = self._is_quiet()
        if quiet and not self._quiet:
            why = "one check does not end" if self._thread.is_alive() else "its thread ended"
            self._on_event(f"stale: live answers are no longer checked, {why}")
        if self._quiet and not quiet:
            self._on_event("live answers are checked again")
        self._quiet = quiet

    def _is_quiet(self) -> bool:
        began_s = self._began_s
        if self._stopped or self._thread.ident is None:
            return False
        hangs = began_s is not None and self._clock() - began_s > QUIET_S
        return hangs or not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """Requests offered and checked, mismatches, and what was skipped and why; JSON-able."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("checked", "mismatches")}
            skipped = {why: n for why, n in self._skipped.items() if n}
            clean: dict[str, dict[str, int]] = {}
            for (plan, thing), n in self._checked.items():
                if n:
                    clean.setdefault(plan, {})[thing] = n
            waiting = len(self._queue)
        state = "stale" if self._is_quiet() else "watching"
        return {
            "state": state, "offered": self._offered, **counts, "waiting": waiting,
            "skipped": skipped, "clean": clean,
        }  # fmt: skip
