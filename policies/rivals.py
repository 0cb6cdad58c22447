"""Settings of the published disciplines: what stands beside a setting of the rule in a table.

Each is frozen and has, like `RuleParams`, a `name`, a `kind` (which of `policies.disciplines`) and
`to_array`. `plan` is an index into the cost table, `max_rows` the batch cap. A value out of range
is a ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies import disciplines
from policies.params import PARAMETERS

__all__ = ["BentoML", "Clipper", "Clockwork", "DrainAware", "Proteus", "SlackFit"]

Floats = NDArray[np.float64]


def _array(plan: int, cap: int, *own: float) -> Floats:
    array = np.zeros(PARAMETERS)
    array[: 2 + len(own)] = plan, cap, *own
    return array


def _whole(**values: int) -> None:
    for name, value in values.items():
        if not (value >= 1 and value % 1 == 0):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}")


def _index(plan: int, *, or_any: bool = False) -> None:
    if not (plan >= (-1 if or_any else 0) and plan % 1 == 0):
        rule = "an index or -1 for any" if or_any else "an index, one plan serves all"
        raise ValueError(f"plan must be {rule}, got {plan}")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} must be greater than 0 and at most 1, got {value}")


@dataclass(frozen=True, slots=True)
class SlackFit:
    """`disciplines.slackfit`; `early_drop` also drops what cannot be answered in time.

    >>> SlackFit(buckets=8, early_drop=True).name
    'slackfit-8-drop'
    """

    buckets: int = 16
    early_drop: bool = False
    max_rows: int = 16
    kind = disciplines.SLACKFIT

    def __post_init__(self) -> None:
        _whole(buckets=self.buckets, max_rows=self.max_rows)

    @property
    def name(self) -> str:
        return f"slackfit-{self.buckets}" + ("-drop" if self.early_drop else "")

    def to_array(self) -> Floats:
        return _array(-1, self.max_rows, self.buckets, float(self.early_drop))


@dataclass(frozen=True, slots=True)
class DrainAware:
    """`disciplines.drain_aware`; a batch may cost `margin` of the slack.

    >>> DrainAware(margin=0.9).name
    'drain-aware-0.9-drop'
    """

    margin: float = 1.0
    early_drop: bool = True
    max_rows: int = 16
    kind = disciplines.DRAIN_AWARE

    def __post_init__(self) -> None:
        _whole(max_rows=self.max_rows)
        _share(margin=self.margin)

    @property
    def name(self) -> str:
        return f"drain-aware-{self.margin:g}" + ("-drop" if self.early_drop else "")

    def to_array(self) -> Floats:
        return _array(-1, self.max_rows, self.margin, float(self.early_drop))


@dataclass(frozen=True, slots=True)
class Clockwork:
    """`disciplines.clockwork` with one plan.

    >>> Clockwork(plan=1).name
    'clockwork-p1'
    """

    plan: int
    max_rows: int = 16
    kind = disciplines.CLOCKWORK

    def __post_init__(self) -> None:
        _index(self.plan)
        _whole(max_rows=self.max_rows)

    @property
    def name(self) -> str:
        return f"clockwork-p{self.plan}"

    def to_array(self) -> Floats:
        return _array(self.plan, self.max_rows)


@dataclass(frozen=True, slots=True)
class Clipper:
    """`disciplines.clipper` with one plan.

    `step`: rows added to the largest batch after success; `back_off`: × this after a miss.

    >>> Clipper(plan=0, step=2.0).name
    'clipper-p0-s2-b0.9'
    """

    plan: int
    step: float = 1.0
    back_off: float = 0.9
    max_rows: int = 16
    kind = disciplines.CLIPPER

    def __post_init__(self) -> None:
        _index(self.plan)
        _whole(max_rows=self.max_rows)
        _share(back_off=self.back_off)
        if not (self.step > 0 and math.isfinite(self.step)):
            raise ValueError(f"step must be finite and greater than 0, got {self.step}")

    @property
    def name(self) -> str:
        return f"clipper-p{self.plan}-s{self.step:g}-b{self.back_off:g}"

    def to_array(self) -> Floats:
        return _array(self.plan, self.max_rows, self.step, self.back_off)


@dataclass(frozen=True, slots=True)
class Proteus:
    """`policies._proteus`; every worker gets a plan from `policies._allocator`, or `plan` >= 0.

    `headroom`: times the demand that must be carried. `caution`: how many times a cost counts
    against a deadline; as published, 1, every batch that is not full starts at the very last
    moment. `every_s`: from one allocation to the next, ten windows of demand; 10 s as published,
    for traces of minutes.

    >>> Proteus(plan=2, caution=1.2).name, Proteus(every_s=1.0).name
    ('proteus-1.05-c1.2-p2', 'proteus-1.05-e1')
    """

    plan: int = -1
    headroom: float = 1.05
    max_rows: int = 16
    caution: float = 1.0
    every_s: float = 10.0
    kind = disciplines.PROTEUS

    def __post_init__(self) -> None:
        _index(self.plan, or_any=True)
        _whole(max_rows=self.max_rows)
        for name, value in (("headroom", self.headroom), ("every_s", self.every_s)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and greater than 0, got {value}")
        if not (self.caution >= 1 and math.isfinite(self.caution)):
            raise ValueError(f"caution must be finite and at least 1, got {self.caution}")

    @property
    def name(self) -> str:
        caution = "" if self.caution == 1.0 else f"-c{self.caution:g}"
        every = "" if self.every_s == 10.0 else f"-e{self.every_s:g}"
        plan = f"-p{self.plan}" if self.plan >= 0 else ""
        return f"proteus-{self.headroom:g}{caution}{every}{plan}"

    def to_array(self) -> Floats:
        every_ms = self.every_s * 1e3
        return _array(self.plan, self.max_rows, self.headroom, self.caution, every_ms)


@dataclass(frozen=True, slots=True)
class BentoML:
    """`disciplines.bentoml` with one plan.

    >>> BentoML(plan=0).name
    'bentoml-p0'
    """

    plan: int
    max_rows: int = 16
    kind = disciplines.BENTOML

    def __post_init__(self) -> None:
        _index(self.plan)
        _whole(max_rows=self.max_rows)

    @property
    def name(self) -> str:
        return f"bentoml-p{self.plan}"

    def to_array(self) -> Floats:
        return _array(self.plan, self.max_rows)
