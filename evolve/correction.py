"""What follows from a verdict of the watch: a liberty withdrawn or a plan quarantined, for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from supernet.errors import CacheError

if TYPE_CHECKING:
    from evolve.faults import Faults
    from evolve.journal import Journal
    from evolve.judge import Verdict
    from evolve.liberties import Liberty, Licence
    from evolve.samples import Sample

__all__ = ["Correction"]

_FROM_NOW_ON = {
    "batching": "requests are answered one by one from now on",
    "padding": "only requests of equal length share a batch from now on, at that length",
}


class Correction:
    """Carries verdicts out and tells the journal.

    Args:
        licence: The liberties in force.
        faults: Takes plans out.
        journal: Where it is said.
        condemn: Has a plan stay out after a restart: (key, why). Raises `CacheError` or `OSError`
            where that can't be written.
    """

    def __init__(
        self,
        licence: Licence,
        faults: Faults,
        journal: Journal,
        condemn: Callable[[str, str], None],
    ) -> None:
        self._licence = licence
        self._faults = faults
        self._journal = journal
        self._condemn = condemn

    def __call__(self, sample: Sample, verdict: Verdict) -> None:
        if verdict.cause == "plan":
            self._take_out(sample.plan, verdict.why)
        elif verdict.cause == "model":
            self._withdraw("batching", verdict.why)
            self._withdraw("padding", verdict.why)
        else:
            self._withdraw(verdict.cause, verdict.why)

    def _take_out(self, plan: str, why: str) -> None:
        if not self._faults.convict(plan, why):
            return  # its batches that were under way
        try:
            self._condemn(plan, why)
        except (CacheError, OSError) as error:
            self._say_forgotten(plan, error)

    def _withdraw(self, liberty: Liberty, why: str) -> None:
        if not getattr(self._licence.now, liberty):
            return
        try:
            self._licence.withdraw(liberty, why)
        except (CacheError, OSError) as error:
            self._say_forgotten(liberty, error)
        self._journal.append(
            "runtime", liberty, before={"state": "on"}, after={"state": "off"},
            reason=f"{why}; {_FROM_NOW_ON[liberty]}",
        )  # fmt: skip

    def _say_forgotten(self, subject: str, error: Exception) -> None:
        self._journal.append(
            "runtime", subject,
            reason=f"it can't be remembered for the next start: {type(error).__name__}: {error}",
        )  # fmt: skip
