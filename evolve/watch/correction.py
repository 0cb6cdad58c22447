"""Correction after a verdict of the watch: a liberty withdrawn, a plan or a tier quarantined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evolve.data_plane.faults import Fault, say_forgotten
from evolve.errors import PlanWrong, QualityLow
from supernet.errors import CacheError
from supernet.plans import PlanState

if TYPE_CHECKING:
    from evolve.data_plane.faults import Faults
    from evolve.data_plane.liberties import Liberty, Licence
    from evolve.journal.journal import Journal
    from evolve.watch.judge import Judgement
    from evolve.watch.samples import Sample
    from supernet.plans import PlanLibrary

__all__ = ["Correction"]

_FROM_NOW_ON = {
    "batching": "requests are answered one by one from now on",
    "padding": "only requests of equal length share a batch from now on, at that length",
}


class Correction:
    """Carries verdicts out and tells the journal.

    Args:
        licence: The liberties in force.
        faults: Where a wrong plan is noted, which takes it out.
        journal: Where it is said.
        library: Which plans run the same sub-network.
    """

    def __init__(
        self,
        licence: Licence,
        faults: Faults,
        journal: Journal,
        library: PlanLibrary,
    ) -> None:
        self._licence = licence
        self._faults = faults
        self._journal = journal
        self._library = library

    def __call__(self, sample: Sample, verdict: Judgement) -> None:
        if verdict.cause == "plan":
            wrong = PlanWrong(verdict.why)
            fault = Fault(None, sample.plan, wrong, original_works=True, at_s=sample.taken_s)
            self._faults.note(fault)
        elif verdict.cause == "tier":
            self._take_out(sample, verdict.why)
        elif verdict.cause == "model":
            self._withdraw("batching", verdict.why)
            self._withdraw("padding", verdict.why)
        else:
            self._withdraw(verdict.cause, verdict.why)

    def _take_out(self, sample: Sample, why: str) -> None:
        """All plans of the sub-network that gave this answer, at once."""
        found = self._library.get(sample.plan)
        if found is None:  # its user dismissed it just now
            return
        plans = [plan for plan in self._library.plans() if plan.subnet == found.subnet]
        for plan in plans:
            if plan.state is not PlanState.QUARANTINED:
                low, at_s = QualityLow(why), sample.taken_s
                self._faults.note(Fault(None, plan.key, low, original_works=True, at_s=at_s))

    def _withdraw(self, liberty: Liberty, why: str) -> None:
        if not getattr(self._licence.now, liberty):
            return
        try:
            self._licence.withdraw(liberty, why)
        except (CacheError, OSError) as error:
            say_forgotten(self._journal, "runtime", liberty, error)
        self._journal.append(
            "runtime", liberty, before={"state": "on"}, after={"state": "off"},
            reason=f"{why}; {_FROM_NOW_ON[liberty]}",
        )  # fmt: skip
