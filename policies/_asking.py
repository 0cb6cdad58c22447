"""Records of the compiled rule: what it is asked with.

Waiting ─► queue: REQUEST [n] ┐
costs ─► Plans ─► Prepared    ┴► `policies.compiled.decide_prepared`
Line, Asker ──────────────────► `policies.uniform.decide_uniform`, `policies.disciplines`
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Requests = NDArray[Any]
"""An array of `REQUEST`."""

REQUEST = np.dtype(
    [
        ("deadline_ms", "f8"),  # same clock as `now_ms`, any order
        ("arrived_ms", "f8"),
        ("bucket", "i8"),  # index into the padded lengths
        ("rows", "i8"),  # 1..R
        ("group", "i8"),  # only equal groups share a batch
        ("refusable", "?"),
    ],
    align=True,
)


class Plans(NamedTuple):
    """Plans to choose among: `cost_ms` [P, R, L] of plan p at r + 1 rows padded to lengths[l], NaN
    and inf are "unknown"; `lengths` [L] ascending; `tier` [P], 0 is the most accurate; `allowed`
    [P]."""

    cost_ms: Floats
    lengths: Floats
    tier: Ints
    allowed: Flags


class Prepared(NamedTuple):
    """What of a decision depends only on the plans and the setting; of each of T tiers, and in the
    last row over all of them.

    `fastest` [T + 1, R, L] ms and the `plan` it is; `ms_per_row` [T + 1, L]: work per row, in ms;
    `efficient_rows` [T + 1, L]: the efficient number of rows; and the padded `lengths` [L].
    """

    fastest: Floats
    plan: Ints
    ms_per_row: Floats
    efficient_rows: Ints
    lengths: Floats


class Line(NamedTuple):
    """Equal requests in order of arrival, `at_ms`[head:tail]; deadlines are `slo_ms` later."""

    at_ms: Floats
    head: int
    tail: int
    slo_ms: float


class Asker(NamedTuple):
    """The worker that asks: its index, how many like it serve this queue (may be fractional), how
    often each cost counts for it, and the recent arrivals per ms."""

    worker: int
    workers: float
    pace: float
    rate_per_ms: float
