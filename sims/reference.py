"""A measured case to simulate with: a small sentence encoder on one-thread CPU workers.

Fitted to timings of MiniLM-L6 (22.7 M parameters, fp32) on a server CPU with AVX-512, one thread,
as cost = fixed + per_token · rows · length + per_pair · rows · length²; the fit is within about
20 % of every timing between (1, 16) and (16, 32). For real decisions use a runtime's own table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiler.shapes import ShapeGrid
from sims.service import Disturbances, Service, noise

__all__ = ["REFERENCE_PLANS", "reference_cost_ms", "reference_service"]

REFERENCE_PLANS = ("eager", "onnxruntime-fp32", "openvino-fp32")
_FIXED_MS = np.array([5.48, 2.90, 2.42])
_PER_TOKEN_MS = np.array([0.221, 0.134, 0.114])
_PER_PAIR_MS = np.array([7.3e-4, 2.6e-4, 1.4e-4])


def reference_cost_ms(grid: ShapeGrid) -> NDArray[np.float64]:
    """Cost of the reference plans, float64 [3, max_rows, lengths], ms."""
    rows = np.arange(1, grid.max_rows + 1, dtype=np.float64)[None, :, None]
    length = np.array(grid.lengths, np.float64)[None, None, :]
    fixed, token, pair = (a[:, None, None] for a in (_FIXED_MS, _PER_TOKEN_MS, _PER_PAIR_MS))
    return np.asarray(fixed + token * rows * length + pair * rows * length**2)


def reference_service(
    *,
    workers: int = 2,
    slo_ms: float = 50.0,
    max_rows: int = 16,
    seed: int = 0,
    scatter: float = 0.1,
) -> Service:
    """The encoder on `workers` one-thread workers, requests of 1..280 tokens.

    `scatter`: standard deviation of the log of a batch's hidden cost multiplier; 1 % of batches
    take twice as long besides.
    """
    grid = ShapeGrid.covering(max_rows, 4, 280)
    factor = noise(np.random.default_rng(seed), scatter=scatter, spike_share=0.01)
    return Service(
        reference_cost_ms(grid),
        np.array(grid.lengths, np.float64),
        slo_ms,
        workers,
        overhead_ms=0.15,
        hidden=Disturbances(factor),
    )
