"""The simulator's public names in one place: what to simulate, how, and what came of it.

`Service`, with its `Units`, `Switching` and `Disturbances` (`noise`), says what serves; `simulate`
runs a trace under a setting or a policy; `Simulation` does it step by step; `sweep_static` finds
the best fixed setting in hindsight.
"""

from __future__ import annotations

from sims.evaluation.static_sweep import StaticRun, sweep_static
from sims.service import Disturbances, Hidden, Result, Service, Switching, Units, noise
from sims.simulation import Simulation, simulate

__all__ = [
    "Disturbances",
    "Hidden",
    "Result",
    "Service",
    "Simulation",
    "StaticRun",
    "Switching",
    "Units",
    "noise",
    "simulate",
    "sweep_static",
]
