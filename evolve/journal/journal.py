"""The journal: every decision as one line of JSON, in memory and, given a path, on disk.

    append ──► ring of the last `keep` decisions         (always)
          └──► line + CRC ──► PATH ──► PATH.1            (renamed at `max_mib`)
                      │
                      └─ disk full or broken: `fault` says why, serving goes on, the lines wait
                         in memory and are written when the disk answers again

A record is a whole line with a matching CRC. What an unclean stop left behind the last such
record is moved to `PATH.torn` when the journal is opened again: cut, kept, never guessed at.
A stop of the process (even `kill -9`) loses nothing that `append` returned; a power cut may lose
what the system had not written yet, unless `sync` was called.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from evolve import process_end
from evolve.journal.decision import KINDS, NOTHING, Decision, numbers, plain, printable
from evolve.journal.file import JournalError, JournalFile
from evolve.journal.reader import Damage, Verdict, read, verify
from evolve.journal.record import fitted

__all__ = ["Damage", "Journal", "JournalError", "Verdict", "read", "verify"]

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0


class Journal:
    """Decisions in the order they were made. Safe to use from several threads.

    `device` is the fingerprint key written into each record; `clock` is monotonic seconds, `wall`
    seconds since the epoch (only for the reader's eyes: nothing is decided by it). With `path`
    None it keeps the last `keep` decisions in memory and nothing else. A path that cannot be used
    at all (a folder, no permission, another runtime's journal, some other file) is a
    `JournalError` at once; a disk that fails later never is.

    >>> journal = Journal(None, device="cpu-1a2b", clock=lambda: 0.0, wall=lambda: 0.0)
    >>> journal.append("runtime", "breaker", reason="held by hand", applied=False).seq
    1
    >>> [d.subject for d in journal.last(5)]
    ['breaker']
    """

    def __init__(
        self,
        path: Path | str | None,
        *,
        device: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        keep: int = 1000,
        max_mib: float = 256.0,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if not max_mib > 0:
            raise ValueError(f"max_mib must be above 0, got {max_mib}")
        self._device = printable(device)
        self._clock, self._wall = clock, wall
        self._opened_s = clock()
        self._lock = threading.Lock()
        self._ring: deque[Decision] = deque(maxlen=keep)
        self._waiting: deque[bytes] = deque(maxlen=keep)
        self._lost = 0
        self._fault: str | None = None
        self._retry_s, self._next_try_s = FIRST_RETRY_S, 0.0
        self._seq = 0
        self._closed = False
        self._file: JournalFile | None = None
        if path is not None:
            self._file = JournalFile(Path(path), max_bytes=int(max_mib * 2**20))
            self._seq = self._file.last_seq
            if self._file.torn_bytes:
                self._say_torn(self._file)
            process_end.share(self)

    @property
    def path(self) -> Path | None:
        """The file it writes to; None when it lives in memory only."""
        return self._file.path if self._file else None

    @property
    def fault(self) -> str | None:
        """Why decisions are not reaching the disk just now; None when they are."""
        return self._fault

    def append(
        self,
        kind: str,
        subject: str,
        *,
        policy: str = "",
        seen: Mapping[str, Any] = NOTHING,
        before: Mapping[str, Any] = NOTHING,
        after: Mapping[str, Any] = NOTHING,
        reason: str,
        scores: Mapping[str, float] = NOTHING,
        applied: bool = True,
    ) -> Decision:
        """Record one decision and return it as recorded (escaped, capped, numbered).

        Never raises for a failing disk: see `fault`. `seen` and `scores` hold numbers; `before`
        and `after` whatever JSON can say (other values are kept as their text).
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        content = {
            "kind": kind,
            "subject": printable(subject),
            "policy": printable(policy),
            "seen": numbers(seen),
            "before": plain(before),
            "after": plain(after),
            "reason": printable(reason),
            "scores": numbers(scores),
            "applied": bool(applied),
        }
        with self._lock:
            if self._closed:
                raise JournalError("the journal must be open to append to, but it was closed")
            decision = self._record(content)
            self._write()
            return decision

    def last(self, n: int = 20) -> tuple[Decision, ...]:
        """The newest `n` decisions of this run, oldest of them first."""
        with self._lock:
            return tuple(self._ring)[-n:] if n > 0 else ()

    def sync(self) -> None:
        """Wait until the disk holds all that was appended. Slow: never on the request path."""
        with self._lock:
            self._next_try_s = 0.0
            self._write(sync=True)

    def close(self) -> None:
        """Write what waits, sync and let go of the file. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._next_try_s = 0.0
            self._write(sync=True)
            self._closed = True
            if self._file:
                self._file.close()

    def orphan(self) -> None:
        """Called in a fork of this process: there it keeps decisions in memory only, for the file
        is the other process's, whose lock on it must not outlive it here."""
        self._lock = threading.Lock()
        if self._file is not None and not self._closed:
            self._fault = f"{self._file.path}: written by the process that this one is a fork of"
            self._file.leave()
            self._file = None
            self._waiting.clear()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _record(self, content: Mapping[str, Any]) -> Decision:
        """Number the decision, keep it in memory and queue its line. The lock is held."""
        self._seq += 1
        at = datetime.fromtimestamp(self._wall(), timezone.utc)
        decision, line = fitted(
            Decision(
                seq=self._seq,
                at=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                uptime_s=round(self._clock() - self._opened_s, 6),
                device=self._device,
                **content,
            )
        )
        self._ring.append(decision)
        if self._file:
            if len(self._waiting) == self._waiting.maxlen:
                self._lost += 1
            self._waiting.append(line)
        return decision

    def _write(self, *, sync: bool = False) -> None:
        """Hand the waiting lines to the file, or note why not and when to try again."""
        if self._file is None or self._closed:
            return
        now_s = self._clock()
        if self._fault is not None and now_s < self._next_try_s:
            return
        try:
            while self._waiting:
                changed = self._file.write(self._waiting[0])
                self._waiting.popleft()
                if changed is not None:
                    self._record(_plain_content("journal", changed))
            if sync:
                self._file.sync()
        except OSError as error:
            self._fault = f"{self._file.path}: {error.strerror or error}"
            self._next_try_s = now_s + self._retry_s
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
            return
        if self._fault is not None:
            fault, lost = self._fault, self._lost
            self._fault, self._lost, self._retry_s = None, 0, FIRST_RETRY_S
            self._say_healed(fault, lost)

    def _say_torn(self, file: JournalFile) -> None:
        self.append(
            "runtime",
            "journal",
            reason=f"{file.torn_bytes} bytes behind the last whole record were left by an "
            f"unclean stop; they are cut and kept in {file.path.name}.torn",
        )

    def _say_healed(self, fault: str, lost: int) -> None:
        gone = f"{lost} decisions did not fit in memory and are missing" if lost else "none is lost"
        self._record(_plain_content("journal", f"writing again after: {fault}; {gone}"))
        self._write()


def _plain_content(subject: str, reason: str) -> dict[str, Any]:
    return {
        "kind": "runtime",
        "subject": subject,
        "policy": "",
        "seen": NOTHING,
        "before": NOTHING,
        "after": NOTHING,
        "reason": printable(reason),
        "scores": NOTHING,
        "applied": True,
    }
