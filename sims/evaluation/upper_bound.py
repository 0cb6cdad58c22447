"""The clairvoyant bound: what no policy can exceed, knowing every arrival.

A fluid relaxation: batches are always as cheap per row as batches get, work can be split at will
and shared among all workers. Arrivals are gathered into slots. With one deadline for all, the
work w_b given to the arrivals of slot b is feasible exactly when the backlog

    Q_b = max(Q_{b-1} - C_{b-1}, 0) + w_b <= C_b + ... + C_{b+D}

stays within what can be done before the deadline (C: work a slot can do, D: deadline in slots).
Accuracy as a function of the work spent on a request is made concave (its upper hull), and the
feasible sets form a polymatroid, so taking the steepest pieces first, each as far as it goes, is
optimal (J. Edmonds, "Submodular functions, matroids, and certain polyhedra", 1970).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies._jit import jit
from sims.service import Service, Units
from sims.traces import Trace

__all__ = ["clairvoyant_utility"]

Floats = NDArray[np.float64]


def clairvoyant_utility(service: Service, trace: Trace, *, slot_ms: float = 2.0) -> float:
    """An upper bound on the utility of any policy on this very trace, in [0, 1].

    For services whose requests are all equal. The hidden drift is known to it; scatter, spikes,
    switches, loads and losses are left out, as if they cost nothing.
    """
    if service.lengths.size != 1:
        raise ValueError(f"service must have one length, got {service.lengths.size}")
    if not 0.0 < slot_ms <= service.slo_ms:
        raise ValueError(f"slot_ms must be in (0, slo_ms], got {slot_ms}")
    table = service.table("true_ms")[:, :, :, 0]
    per_row = (table / np.arange(1, table.shape[2] + 1)).min(axis=2)  # [D, P]
    units = service.units or Units.alike(service.workers)
    able = (per_row.min(axis=1)[0] / per_row.min(axis=1)[units.kind] / units.slower).sum()
    accuracy = np.ones(service.plans) if service.accuracy is None else service.accuracy
    work, gain = _hull(per_row[0], accuracy)
    count = int(np.ceil(trace.seconds * 1e3 / slot_ms)) + 1
    offered = np.bincount((trace.arrivals_s * 1e3 / slot_ms).astype(np.int64), minlength=count)
    ahead = int(np.ceil(service.slo_ms / slot_ms)) + 1
    hidden = service.hidden
    at = np.arange(count + ahead) * slot_ms / hidden.drift_every_ms
    level = np.interp(at % hidden.drift.size, np.arange(hidden.drift.size + 1),
                      np.append(hidden.drift, hidden.drift[0]))  # fmt: skip
    can = able * slot_ms / level
    reach = np.convolve(can, np.ones(ahead), "valid")[:count]
    return float(_fill(offered.astype(np.float64), work, gain, can, reach) / len(trace))


def _hull(work: Floats, utility: Floats) -> tuple[Floats, Floats]:
    """Pieces of the upper concave hull from (0, 0), steepest first: (work, utility) of each."""
    pieces: list[tuple[float, float]] = []
    at, have = 0.0, 0.0
    while True:
        slopes = np.where(
            (work > at) & (utility > have), (utility - have) / np.maximum(work - at, 1e-12), 0.0
        )
        best = int(slopes.argmax())
        if slopes[best] <= 0.0:
            break
        pieces.append((float(work[best] - at), float(utility[best] - have)))
        at, have = float(work[best]), float(utility[best])
    told = np.array(pieces)
    return told[:, 0].copy(), told[:, 1].copy()


@jit
def _fill(offered: Floats, work: Floats, gain: Floats, can: Floats, reach: Floats) -> float:
    """Give each slot's requests as much of each piece as fits; the utility gathered."""
    n = offered.shape[0]
    backlog = np.zeros(n)  # after the work of slot b came in
    given = offered.copy()  # requests that have all pieces so far
    total = 0.0
    for piece in range(work.shape[0]):
        for b in range(n):
            if given[b] <= 0.0:
                continue
            wanted = given[b] * work[piece]
            # More work here raises every later backlog until idle time swallows it.
            fits, idle = wanted, 0.0
            for later in range(b, n):
                fits = min(fits, reach[later] - backlog[later] + idle)
                idle += max(0.0, can[later] - backlog[later])
                if idle >= wanted or fits <= 0.0:
                    break
            fits = max(0.0, fits)
            extra = fits
            for later in range(b, n):
                if extra <= 0.0:
                    break
                spare = max(0.0, can[later] - backlog[later])
                backlog[later] += extra
                extra = max(0.0, extra - spare)
            total += fits / work[piece] * gain[piece]
            given[b] = fits / work[piece]
    return total
