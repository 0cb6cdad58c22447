"""Ways to run one model, and what is known about each.

::

    built ──verify──▶ verified ──admit──▶ admitted
      └───────────────────┴──────fault───────┴────▶ quarantined   (final)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from profiler.shapes import Shape
from supernet.bounds import Bounds
from supernet.microbatches import Microbatches

__all__ = ["COMPILED", "ORIGINAL", "Plan", "PlanChange", "PlanLibrary", "PlanSpec", "PlanState"]

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
    """How far a plan has come. Only admitted plans serve."""

    BUILT = "built"
    VERIFIED = "verified"
    ADMITTED = "admitted"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Plan:
    """A spec and the evidence about it.

    ``error`` is by ``metric`` against the original model (worst example), None before it
    was judged; ``costs_ms`` the measured milliseconds per batch shape; ``memory_mib`` the
    resident memory one loaded copy takes; ``microbatches`` which batches it runs in parts, None
    where it runs all of them whole; ``bounds`` which requests a coarse plan is for, None where it
    is for all; ``reason`` says why it is in its state.
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

    @property
    def key(self) -> str:
        return self.spec.key


PlanChange: TypeAlias = Callable[[Plan | None, Plan, str], None]
"""Called after each change with (before, after, reason), outside the library's lock."""


class PlanLibrary:
    """All plans of one model. Thread-safe; readers take one reference and never a lock.

    A quarantined plan stays so for this graph and these weights (they are part of its
    key): a later success never overturns a failed verdict.
    """

    def __init__(self, on_change: PlanChange | None = None) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._plans: Mapping[str, Plan] = MappingProxyType({})
        self._admitted: tuple[Plan, ...] = ()

    def plans(self) -> tuple[Plan, ...]:
        """Every plan known, in the order first put."""
        return tuple(self._plans.values())

    def admitted(self) -> tuple[Plan, ...]:
        """The plans that may serve: one reference read."""
        return self._admitted

    def get(self, key: str) -> Plan | None:
        return self._plans.get(key)

    def put(self, plan: Plan) -> Plan:
        """Add or replace by key; returns what the library holds now for that key."""
        return self._change(plan.key, lambda before: plan, plan.reason)

    def admit(self, key: str, reason: str) -> Plan:
        """Let a verified plan serve. A plan with no error on record is refused."""

        def after(before: Plan | None) -> Plan:
            if before is None:
                raise KeyError(f"plan must be in the library, got {key!r}")
            if before.state is PlanState.BUILT or before.error is None:
                raise ValueError(f"plan must be verified before it is admitted, got {before.state}")
            return replace(before, state=PlanState.ADMITTED, reason=reason)

        return self._change(key, after, reason)

    def quarantine(self, key: str, reason: str) -> Plan:
        """Take a plan out for good."""

        def after(before: Plan | None) -> Plan:
            if before is None:
                raise KeyError(f"plan must be in the library, got {key!r}")
            return replace(before, state=PlanState.QUARANTINED, reason=reason)

        return self._change(key, after, reason)

    def _change(self, key: str, after: Callable[[Plan | None], Plan], reason: str) -> Plan:
        with self._lock:
            before = self._plans.get(key)
            if before is not None and before.state is PlanState.QUARANTINED:
                return before
            plan = after(before)
            if plan == before:
                return plan
            held = {**self._plans, key: plan}
            self._plans = MappingProxyType(held)
            self._admitted = tuple(p for p in held.values() if p.state is PlanState.ADMITTED)
        if self._on_change is not None:
            self._on_change(before, plan, reason)
        return plan
