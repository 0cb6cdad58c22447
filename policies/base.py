"""A policy: signals in, a proposal out. Pure; `evolve` disposes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from policies.params import RuleParams

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["Choice", "Policy"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A proposal: the rule's parameters for the next tick, why, and what else was weighed.

    `scores`: figures behind the choice by name (a policy's own units), for the journal.
    """

    params: RuleParams
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """Proposes the rule's parameters once per tick.

    `choose` has no side effects and keeps no state: whatever must be remembered (hysteresis,
    the active preset) is in `current`. It never raises on valid signals, and the same arguments
    give the same choice, so a journal can be replayed.
    """

    @property
    def name(self) -> str:
        """Names the policy in the journal, [A-Za-z0-9_.-]{1,64}."""
        ...

    def choose(self, signals: Signals, current: Choice) -> Choice:
        """The parameters for the next tick."""
        ...
