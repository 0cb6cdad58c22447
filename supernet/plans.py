"""Ways to run one model, and what is known about each.

::

    built ──► verified ──► admitted ◄──► resident
      └───────────┴────────────┴────────────┴──► quarantined   (final)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from profiler.shapes import Shape
from supernet.bounds import Bounds
from supernet.microbatches import Microbatches

__all__ = [
    "COMPILED",
    "ORIGINAL",
    "Plan",
    "PlanChange",
    "PlanLibrary",
    "PlanSpec",
    "PlanState",
    "moved",
]

ORIGINAL = "original"
"""The name of the model itself among its plans."""
COMPILED = "compiled"
"""Last in a plan's ``fusion``: what its rules leave to torch is compiled (decision 0014)."""


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """Everything that decides what a plan computes and how fast; equal specs are one plan.

    ``isa`` names the instruction sets compiled code may use; ``weights_version`` is the
    digest of the weights, so that moved weights never meet an artifact made from old ones.
    ``fusion`` are the rules that the fused backend applies, in order and joined by "+"
    (``supernet.fusion.rules``), ``COMPILED`` after them; ``limit`` the error within which a mixed
    precision was chosen (``supernet.fidelity.Limit``). Both are empty for engines that decide by
    themselves.
    """

    graph_hash: str
    backend: str
    precision: str
    threads: int
    weights_version: str
    torch_version: str
    backend_version: str
    isa: str
    fusion: str = ""
    limit: str = ""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")

    @property
    def key(self) -> str:
        """Short name for people and tables, e.g. ``"onnxruntime-fp32-t1-1a2b3c4d"``."""
        return f"{self.backend}-{self.precision}-t{self.threads}-{_digest(self)[:8]}"

    @property
    def title(self) -> str:
        """In words, e.g. ``"fused mixed compiled"``; plans may share it."""
        compiled = f" {COMPILED}" if COMPILED in self.fusion.split("+") else ""
        return f"{self.backend} {self.precision}{compiled}"

    @property
    def artifact_key(self) -> str:
        """Name of the stored files: plans that differ in threads only share them."""
        return f"{self.backend}-{self.precision}-{_digest(self)[:20]}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PlanSpec:
        names = {f.name for f in fields(PlanSpec)}
        if set(data) != names:
            raise ValueError(f"plan spec must have the fields {sorted(names)}, got {sorted(data)}")
        return PlanSpec(**{**data, "threads": int(data["threads"])})


@lru_cache(maxsize=1024)  # asked for on every tick, and a spec never changes
def _digest(spec: PlanSpec) -> str:
    data = spec.to_json()
    del data["threads"]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


class PlanState(str, Enum):
    """How far a plan has come: its files exist, its answers are within the limit, its price is
    known here, every worker is meant to hold it, it is out for good."""

    BUILT = "built"
    VERIFIED = "verified"
    ADMITTED = "admitted"
    RESIDENT = "resident"
    QUARANTINED = "quarantined"

    @property
    def may_serve(self) -> bool:
        """Whether requests may be given to it wherever a worker holds it.

        >>> [state.value for state in PlanState if state.may_serve]
        ['admitted', 'resident']
        """
        return self in (PlanState.ADMITTED, PlanState.RESIDENT)


_NEXT: Mapping[PlanState | None, tuple[PlanState, ...]] = MappingProxyType(
    {
        None: (PlanState.BUILT, PlanState.VERIFIED, PlanState.QUARANTINED),
        PlanState.BUILT: (PlanState.VERIFIED, PlanState.QUARANTINED),
        PlanState.VERIFIED: (PlanState.ADMITTED, PlanState.QUARANTINED),
        PlanState.ADMITTED: (PlanState.RESIDENT, PlanState.QUARANTINED),
        PlanState.RESIDENT: (PlanState.ADMITTED, PlanState.QUARANTINED),
        PlanState.QUARANTINED: (),
    }
)
"""What may follow each state; None: what a library may be given of a plan it does not know."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A spec and the evidence about it.

    ``error`` is by ``metric`` against what it runs (worst example), None before it was judged.
    ``subnet`` names the sub-network that it runs, "" for the model itself; ``quality`` is how far
    that agrees with the model (`supernet.fidelity.agreement`). ``costs_ms`` the measured
    milliseconds per batch shape; ``memory_mib`` the resident memory one loaded copy takes;
    ``microbatches`` which batches it runs in parts, None where it runs all of them whole;
    ``bounds`` which requests a coarse plan is for, None where it is for all; ``reason`` says why
    it is in its state.
    """

    spec: PlanSpec
    state: PlanState
    error: float | None = None
    metric: str = "relative_l2"
    memory_mib: float = 0.0
    costs_ms: Mapping[Shape, float] = field(default_factory=dict, hash=False)
    microbatches: Microbatches | None = field(default=None, hash=False)
    bounds: Bounds | None = field(default=None, hash=False)
    artifact: Path | None = None
    reason: str = ""
    subnet: str = ""
    quality: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 1:
            raise ValueError(f"quality must be in [0, 1], got {self.quality}")

    @property
    def key(self) -> str:
        return self.spec.key


def moved(plan: Plan, to: PlanState, reason: str) -> Plan:
    """`plan` in its next state: the one function by which a plan's state changes.

    Raises `ValueError` where the state does not follow from that of `plan`, or where a plan
    without an error on record is to be more than built.

    >>> spec = PlanSpec("graph", "eager", "fp32", 1, "weights", "torch", "1", "isa")
    >>> moved(Plan(spec, PlanState.BUILT, error=0.0), PlanState.VERIFIED, "exact").state.value
    'verified'
    """
    _check(plan.key, plan.state, to)
    if plan.error is None and to is not PlanState.QUARANTINED:
        raise ValueError(f"error of plan {plan.key} must be known to be {to.value}, got None")
    return replace(plan, state=to, reason=reason)


def _check(key: str, before: PlanState | None, to: PlanState) -> None:
    allowed = _NEXT[before]
    if to not in allowed:
        rule = " or ".join(state.value for state in allowed) or "the same for good"
        whence = "at first" if before is None else f"after {before.value}"
        raise ValueError(f"state of plan {key} must be {rule} {whence}, got {to.value}")


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What came of asking for a change: the plan as it is now, and its state before."""

    before: PlanState
    plan: Plan

    @property
    def happened(self) -> bool:
        """False where the plan was in that state already, or is out for good."""
        return self.plan.state is not self.before


class PlanLibrary:
    """All plans of one model. Thread-safe; readers take one reference and never a lock.

    A quarantined plan stays so for this graph and these weights (they are part of its
    key): a later success never overturns a failed verdict.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: Mapping[str, Plan] = MappingProxyType({})
        self._admitted: tuple[Plan, ...] = ()
        self._quarantined: frozenset[str] = frozenset()

    def plans(self) -> tuple[Plan, ...]:
        """Every plan known, in the order first put."""
        return tuple(self._plans.values())

    def admitted(self) -> tuple[Plan, ...]:
        """The plans that may serve, resident or not: one reference read."""
        return self._admitted

    def quarantined(self) -> frozenset[str]:
        """Keys of the plans that are out for good: one reference read."""
        return self._quarantined

    def get(self, key: str) -> Plan | None:
        return self._plans.get(key)

    def put(self, plan: Plan) -> Plan:
        """Add a plan as its build left it, or take it a step further together with what was
        learnt of it; returns what the library holds now for that key."""
        with self._lock:
            before = self._plans.get(plan.key)
            if before is not None and before.state is PlanState.QUARANTINED:
                return before
            state = None if before is None else before.state
            if plan.state is not state:
                _check(plan.key, state, plan.state)
            return self._hold(plan)

    def learn(self, plan: Plan) -> Plan:
        """Replace what is known about a plan (price, bounds); its state and reason stay."""
        with self._lock:
            before = self._known(plan.key)
            if before.state is PlanState.QUARANTINED:
                return before
            return self._hold(replace(plan, state=before.state, reason=before.reason))

    def move(self, key: str, to: PlanState, reason: str) -> PlanChange:
        """Take a plan to another state; see `moved` for what is refused.

        A verdict may fall at any moment: a plan that was quarantined meanwhile is left as it is.
        """
        with self._lock:
            before = self._known(key)
            if before.state in (to, PlanState.QUARANTINED):
                return PlanChange(before.state, before)
            return PlanChange(before.state, self._hold(moved(before, to, reason)))

    def drop(self, subnet: str) -> tuple[Plan, ...]:
        """Forget every plan of a sub-network; those that were known."""
        with self._lock:
            gone = tuple(plan for plan in self._plans.values() if plan.subnet == subnet)
            left = {key: plan for key, plan in self._plans.items() if plan.subnet != subnet}
            self._take(left)
            return gone

    def _known(self, key: str) -> Plan:
        if (plan := self._plans.get(key)) is None:
            raise KeyError(f"plan must be in the library, got {key!r}")
        return plan

    def _hold(self, plan: Plan) -> Plan:
        """The lock is held."""
        self._take({**self._plans, plan.key: plan})
        return plan

    def _take(self, held: Mapping[str, Plan]) -> None:
        """The lock is held."""
        out = (key for key, one in held.items() if one.state is PlanState.QUARANTINED)
        self._quarantined = frozenset(out)
        self._plans = MappingProxyType(held)
        self._admitted = tuple(one for one in held.values() if one.state.may_serve)
