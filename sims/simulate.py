"""The simulator's public names in one place: what to simulate, how, and what came of it.

`Service` and `noise` say what serves; `simulate` runs a trace under a setting or a policy;
`Simulation` does it step by step; `sweep_static` finds the best fixed setting in hindsight.
"""

from __future__ import annotations

from sims.service import Result, Service, noise
from sims.simulation import Moment, Simulation, simulate
from sims.sweep import StaticRun, sweep_static

__all__ = [
    "Moment",
    "Result",
    "Service",
    "Simulation",
    "StaticRun",
    "noise",
    "simulate",
    "sweep_static",
]
