"""Tiers that the runtime found by itself: adopted, replaced by better ones, remembered.

    proposed ──► adopted ──► on trial (the rollout decides) ──► in full ──► others in its place
                                  └──────────────────────────────┴─► refused, rolled back, or
                                                                     dismissed by the user: for good

They are adoptions like a user's own, which are never touched here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evolve.control_plane.generations.state import InUse, Refusal

if TYPE_CHECKING:
    from evolve.control_plane.adoption import Adoptions
    from evolve.control_plane.generations.state import GenerationState, Proposal, Record
    from evolve.control_plane.tiers import Tier, Tiers

__all__ = ["FoundTiers"]

WORTH = 0.001
"""By how much the same sub-network must be better with other weights to begin a trial anew: the
width of a tier (`supernet.tiers`)."""
_OUT = ("refused", "rolled back")
_REPLACED = "others that were found since serve in its place"


class FoundTiers:
    """Those of one revision, held by one thread.

    Args:
        adoptions: What is wanted, of this runtime.
        tiers: What came of it.
        least: Agreement with the model that is asked of a tier.
    """

    def __init__(self, adoptions: Adoptions, tiers: Tiers, least: float) -> None:
        self._adoptions, self._tiers, self._least = adoptions, tiers, least
        self._own: dict[str, Proposal] = {}
        self._leaving: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """All that are adopted, those on their way out, too."""
        return tuple(self._own)

    def is_moving(self) -> bool:
        """Whether any is on trial, or makes room for one."""
        return bool(self._leaving) or any(
            tier.state != "full" for tier in self._tiers.tiers() if tier.name in self._own
        )

    def resume(self, record: Record) -> tuple[str, ...]:
        """Adopts again what was adopted when the last process ended; the names of these."""
        begun = []
        for tier in record.tiers:
            if any(one.bars(tier, self._least) for one in record.refused):
                continue
            if tier.name not in self._adopted(is_found=True):
                with contextlib.suppress(ValueError):  # its user was faster
                    self._add(tier)
                    begun.append(tier.name)
            if tier.name in self._adopted(is_found=True):
                self._own[tier.name] = tier
        return tuple(begun)

    def take(self, proposals: Sequence[Proposal], state: GenerationState) -> tuple[str, ...]:
        """Adopts what is new among those chosen, and lets the others go once these serve; where
        nothing is chosen all stays. What was left out, in words. The caller has locked `state`."""
        record = state.read()
        chosen: set[str] = set()
        new: dict[str, Proposal] = {}
        notes: list[str] = []
        for proposal in proposals:
            if proposal.name in self._own:
                chosen.add(proposal.name)
            elif (why := self._obstacle(proposal, record)) is not None:
                notes.append(f"{proposal.name} is left out: {why}")
            elif (held := self._like(proposal)) is not None:
                chosen.add(held.name)
                notes.append(f"{held.name} stays: {proposal.name} is it with weights hardly better")
            else:
                new[proposal.name] = proposal
        if chosen or new:
            self._adopt(new, record, state)
            self._let_go(chosen | new.keys(), state)
        return tuple(notes)

    def settle(self, state: GenerationState) -> None:
        """Remembers which are out for good, and has those dismissed that others replaced."""
        out = self._out()
        coming = [
            self._states().get(name) for name in self._own.keys() - self._leaving - out.keys()
        ]
        if not coming:  # what was to replace them is out itself
            self._leaving.clear()
        ready = bool(coming) and all(state == "full" for state in coming)
        gone = self._leaving & self._own.keys() if ready else set[str]()
        if not out and not gone:
            return
        try:
            with state.locked():
                self._write(state, out, gone)
        except InUse:  # at the next look, then
            return
        for name, why in out.items():
            self._dismiss(name, f"{why}; it is not proposed again for these weights")
        for name in gone:
            self._dismiss(name, _REPLACED)

    def _write(self, state: GenerationState, out: dict[str, str], gone: set[str]) -> None:
        refusals = [
            Refusal(name, self._own[name].spec.key, self._own[name].quality, self._least, why)
            for name, why in out.items()
        ]
        stay = {name: tier for name, tier in self._own.items() if name not in {*out, *gone}}
        state.write(tuple(stay.values()), (*state.read().refused, *refusals))
        self._own = stay
        self._leaving &= stay.keys()

    def _out(self) -> dict[str, str]:
        """Those that will not serve, and why."""
        found = {tier.name: tier for tier in self._tiers.tiers()}
        wanted = self._adopted(is_found=True)
        out = {}
        for name in self._own:
            tier: Tier | None = found.get(name) if name in wanted else None
            if tier is None:
                out[name] = "its user dismissed it"
            elif tier.state in _OUT:
                out[name] = tier.reason or tier.state
        return out

    def _obstacle(self, proposal: Proposal, record: Record) -> str | None:
        """Why it must not be adopted."""
        if proposal.name in self._adopted(is_found=False):
            return "its user adopted it"
        refusal = next((one for one in record.refused if one.bars(proposal, self._least)), None)
        return None if refusal is None else f"it was tried before: {refusal.why}"

    def _like(self, proposal: Proposal) -> Proposal | None:
        """The same sub-network with weights that are about as good."""
        return next(
            (
                tier
                for tier in self._own.values()
                if tier.spec.key == proposal.spec.key and proposal.quality < tier.quality + WORTH
            ),
            None,
        )

    def _adopt(self, new: dict[str, Proposal], record: Record, state: GenerationState) -> None:
        """All of them, or none."""
        if not new:
            return
        before = tuple(self._own.values())
        written = state.write((*before, *new.values()), record.refused)
        added = []
        try:
            for tier in written.tiers:
                if tier.name in new:
                    self._add(tier)
                    added.append(tier.name)
        except BaseException:
            for name in added:
                self._adoptions.remove(name)
            state.write(before, record.refused)
            raise
        self._own |= {tier.name: tier for tier in written.tiers if tier.name in new}

    def _let_go(self, chosen: set[str], state: GenerationState) -> None:
        """Of the others, those that do not serve yet at once."""
        states = self._states()
        others = self._own.keys() - chosen
        self._leaving = {name for name in others if states.get(name) == "full"}
        if early := others - self._leaving:
            self._write(state, {}, early)
            for name in early:
                self._dismiss(name, "others were chosen before it came to serve")

    def _states(self) -> dict[str, str]:
        return {tier.name: tier.state for tier in self._tiers.tiers()}

    def _adopted(self, *, is_found: bool) -> set[str]:
        return {one.name for one in self._adoptions.all() if one.is_found == is_found}

    def _add(self, tier: Proposal) -> None:
        self._adoptions.add(tier.spec, tier.weights, tier.name, is_found=True)

    def _dismiss(self, name: str, why: str) -> None:
        with contextlib.suppress(ValueError):  # its user was faster
            self._tiers.dismiss(name, why)
