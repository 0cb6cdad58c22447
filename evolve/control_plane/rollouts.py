"""Rollouts of one revision's tiers: looked at in every tick, carried out, said in the journal."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from evolve.journal.journal import JournalError
from evolve.rollout.gate import Evidence
from evolve.rollout.rollout import Rollout, Stage, advance, share_of

if TYPE_CHECKING:
    from evolve.control_plane.plan_loading import PlanLoading
    from evolve.data_plane.faults import Faults
    from evolve.data_plane.traffic_split import TrafficSplit
    from evolve.journal.journal import Journal
    from evolve.rollout.gate import Gate
    from evolve.watch.live_agreement import LiveAgreements
    from supernet.plans import PlanLibrary

__all__ = ["Rollouts"]


class Rollouts:
    """Where each tier is. Thread-safe.

    Args:
        gate: What a tier must pass.
        library: Which plans run which sub-network.
        faults: Which were taken out for what happened to them.
        agreements: What was compared of their answers.
        split: Holds tiers back.
        loading: Takes plans out.
        journal: Is told of each transition.
    """

    def __init__(
        self,
        gate: Gate,
        library: PlanLibrary,
        faults: Faults,
        agreements: LiveAgreements,
        split: TrafficSplit,
        loading: PlanLoading,
        journal: Journal,
    ) -> None:
        self._gate, self._library, self._faults = gate, library, faults
        self._agreements, self._split = agreements, split
        self._loading, self._journal = loading, journal
        self._lock = threading.Lock()
        self._all: dict[str, Rollout] = {}

    def begin(self, subnet: str) -> None:
        """In shadow; called before the first of its plans is loaded."""
        with self._lock:
            self._split.allow(subnet, 0.0)
            self._all[subnet] = Rollout()

    def end(self, subnet: str) -> None:
        """It was dismissed, or came to nothing."""
        with self._lock:
            self._all.pop(subnet, None)
            self._split.forget(subnet)

    def of(self, subnet: str) -> Rollout | None:
        """Where it is; None before its plans are built."""
        return self._all.get(subnet)

    def look(self) -> None:
        """Called in every tick: each tier at most one stage forward, or back."""
        for subnet, rollout in tuple(self._all.items()):
            after = advance(rollout, self._evidence(subnet, rollout.stage), self._gate)
            if after is not rollout:
                self._go(subnet, rollout, after)

    def _evidence(self, subnet: str, stage: Stage) -> Evidence:
        plans = [plan for plan in self._library.plans() if plan.subnet == subnet]
        out = [plan for plan in plans if plan.key in self._faults.blamed()]
        # In full a plan of it may fail as any other may, as long as there is another one.
        spared = stage is Stage.FULL and any(plan.state.may_serve for plan in plans)
        seen = self._agreements.of(subnet)
        fault = f"{out[0].key}: {out[0].reason}" if out and not spared else ""
        return Evidence(seen.samples, seen.mean, seen.is_below, fault)

    def _go(self, subnet: str, before: Rollout, after: Rollout) -> None:
        with self._lock:
            if self._all.get(subnet) is not before:  # dismissed just now
                return
            self._all[subnet] = after
            self._split.allow(subnet, share_of(after.stage, self._gate))
        if after.stage is Stage.ROLLED_BACK:  # loading what is worth it instead takes seconds
            threading.Thread(
                target=self._retire, args=(subnet, after.reason), name="roll-back", daemon=True
            ).start()
        seen = self._agreements.of(subnet)
        self._journal.append(
            "tier", subnet, before={"state": before.stage.value},
            after={"state": after.stage.value, "share": share_of(after.stage, self._gate)},
            seen={"agreement": seen.mean, "samples": float(seen.samples)}, reason=after.reason,
        )  # fmt: skip

    def _retire(self, subnet: str, why: str) -> None:
        with suppress(JournalError):  # all was closed meanwhile
            self._loading.retire(subnet, f"its tier was rolled back: {why}")
