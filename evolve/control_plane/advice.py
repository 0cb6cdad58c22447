"""A policy is asked on a thread of its own: what it does there stops neither tick nor `close`."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from policies.base import Choice

if TYPE_CHECKING:
    from policies.base import Policy
    from profiler.signals import Signals

__all__ = ["Advisor", "NoAdvice"]

PATIENCE_S = 1.0


class NoAdvice(Exception):
    """The policy proposes nothing now; the message says why."""


class Advisor:
    """Asks one policy. For one asking thread.

    Args:
        policy: Who is asked.
        patience_s: How long an answer may take. One that comes later is not used, and until it
            has come nothing more is asked.
    """

    def __init__(self, policy: Policy, patience_s: float = PATIENCE_S) -> None:
        self.policy = policy
        self._patience_s = patience_s
        self._questions: queue.SimpleQueue[tuple[Signals, Choice] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._is_open = False
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    def choose(self, signals: Signals, current: Choice) -> Choice:
        """The policy's choice. Raises `NoAdvice` where it raises, is late, or gives no choice."""
        if not self._thread.ident:
            self._thread.start()
        if self._is_open:
            self._take(0.0, "it has not answered the last question yet")
        self._questions.put((signals, current))
        self._is_open = True
        answer = self._take(self._patience_s, f"it gave no answer within {self._patience_s:g} s")
        if isinstance(answer, BaseException):
            raise NoAdvice(f"it raised {answer!r}") from answer
        if not isinstance(answer, Choice):
            raise NoAdvice(f"it must give a Choice, got {type(answer).__name__}")
        return answer

    def stop(self) -> None:
        """Asks no more; a policy that hangs is left to itself."""
        self._questions.put(None)

    def _take(self, timeout_s: float, why: str) -> object:
        try:
            answer = self._answers.get(timeout=timeout_s) if timeout_s else self._answers.get(False)
        except queue.Empty:
            raise NoAdvice(why) from None
        self._is_open = False
        return answer

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            try:
                self._answers.put(self.policy.choose(*question))
            except BaseException as error:  # SystemExit is the policy's, not the tick's
                self._answers.put(error)
