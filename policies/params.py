"""The parameters of the dispatch rule; light enough to import anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["PARAMETERS", "RuleParams"]

Floats = NDArray[np.float64]

MARGIN, BETA, ALPHA, DELTA, SPREAD, MAX_ROWS, WAIT_MS, PLANS = range(8)
"""Positions in `RuleParams.to_array()`, read by the compiled rule; `PLANS` as a sum of 2^plan."""
MOST_PLANS = 52
"""A float64 holds that many bits exactly."""
PARAMETERS = 8
MOST_LETTERS, MOST_ROWS = 100, 1 << 20


@dataclass(frozen=True, slots=True)
class RuleParams:
    """One whole setting of the dispatch rule.

    `margin`: share of the head's slack a batch may cost; inf fills every batch to `max_rows`
    whatever it costs (a static setting). `beta`, `alpha`: weight of queued and of expected work
    when judging what must be carried. `delta`: strictness of the early drop, in latencies of a
    good batch; 0 drops only the hopeless. `spread`: largest ratio of the longest to the shortest
    padded length within a batch, >= 1; inf batches in order of arrival. `max_rows`: batch cap.
    `wait_ms`: longest hold for a fuller batch. `plans`: the only ones to use, none for any allowed.
    The defaults are the best of the sweep in decision 0005.

    >>> RuleParams("lone", max_rows=1).to_array().shape
    (8,)
    """

    name: str
    margin: float = 0.7
    beta: float = 1.0
    alpha: float = 0.75
    delta: float = 0.75
    spread: float = 1.6
    max_rows: int = 16
    wait_ms: float = 0.0
    plans: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.name and len(self.name) <= MOST_LETTERS and self.name.isprintable()):
            raise ValueError(
                f"name must be 1 to {MOST_LETTERS} printable characters, got {self.name[:80]!r}"
            )
        if not self.margin > 0.0:
            raise ValueError(f"margin must be greater than 0, got {self.margin}")
        for name in ("beta", "alpha", "delta", "wait_ms"):
            value = getattr(self, name)
            if not (value >= 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if not self.spread >= 1.0:
            raise ValueError(f"spread must be at least 1, got {self.spread}")
        if not 1 <= self.max_rows <= MOST_ROWS:
            raise ValueError(f"max_rows must be in 1..{MOST_ROWS}, got {str(self.max_rows)[:20]}")
        if any(not 0 <= plan < MOST_PLANS for plan in self.plans):
            raise ValueError(f"plans must be indices in 0..{MOST_PLANS - 1}, got {self.plans}")

    @property
    def kind(self) -> int:
        """0: of the disciplines, the rule (`policies.disciplines`)."""
        return 0

    def to_array(self) -> Floats:
        """The parameters as `decide` reads them, float64[8] without the name."""
        array = np.empty(PARAMETERS)
        array[MARGIN] = self.margin
        array[BETA] = self.beta
        array[ALPHA] = self.alpha
        array[DELTA] = self.delta
        array[SPREAD] = self.spread
        array[MAX_ROWS] = self.max_rows
        array[WAIT_MS] = self.wait_ms
        array[PLANS] = sum(1 << plan for plan in set(self.plans))
        return array

    def to_json(self) -> dict[str, str | float | int | list[int]]:
        """A flat mapping that `from_json` reads back; infinities as the string "inf"."""
        told = {k: "inf" if v == math.inf else v for k, v in asdict(self).items()}
        return {**told, "plans": list(self.plans)}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> RuleParams:
        """The inverse of `to_json`; a missing, unknown or ill-typed entry is a ValueError."""
        kinds = {f.name: str(f.type) for f in fields(cls)}
        if values.keys() != kinds.keys():
            raise ValueError(
                f"params must have exactly the entries {', '.join(kinds)}, "
                f"got {', '.join(map(str, values))}"
            )
        read: dict[str, object] = {}
        for name, kind in kinds.items():
            if name == "plans":
                read[name] = _indices(values[name])
                continue
            value = math.inf if kind == "float" and values[name] == "inf" else values[name]
            accepted = {"str": (str,), "int": (int,), "float": (int, float)}[kind]
            if isinstance(value, bool) or not isinstance(value, accepted):
                raise ValueError(f"params.{name} must be {kind}, got {value!r}")
            try:
                read[name] = float(value) if kind == "float" else value  # type: ignore[arg-type]
            except OverflowError:
                raise ValueError(f"params.{name} must be a number that a float holds") from None
        return cls(**read)  # type: ignore[arg-type]

    @classmethod
    def static(
        cls,
        plan: int,
        max_rows: int,
        wait_ms: float = 0.0,
        *,
        spread: float = math.inf,
        delta: float = 0.0,
    ) -> RuleParams:
        """The setting a person would deploy: one plan, one batch cap, one wait.

        Batches are filled in order of arrival and padded to the longest (`spread` = inf), or
        grouped by a fixed ratio of lengths. `delta` = 0 refuses what can't be answered in time
        any more even alone; 1 also what can't within the batch it would join.
        """
        name = f"static-p{plan}-b{max_rows}-w{wait_ms:g}"
        if math.isfinite(spread):
            name += f"-s{spread:g}"
        return cls(
            name, math.inf, 0.0, 0.0, delta, spread, max_rows, wait_ms, (plan,)
        )  # fmt: skip

    def named(self, name: str) -> RuleParams:
        """The same setting under another name."""
        return replace(self, name=name)


def _indices(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(item) is not int for item in value):
        raise ValueError(f"params.plans must be a list of indices, got {value!r}")
    return tuple(value)
