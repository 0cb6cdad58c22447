"""What would happen? A service under load, simulated event by event with the live rule.

- `traces`: when requests arrive and how long they are. `reference`: measured costs to try with.
- `simulate`: run a trace (`sims.simulate.simulate`), sweep static settings. `engine`: the
  compiled part.
- `env`: the gym `evolve/Load-v0`, registered with Gymnasium by importing this package.

Names are loaded on first use: importing this package loads neither numba nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from sims.env import LoadDomain, LoadEnv
    from sims.reference import reference_service
    from sims.simulate import Result, Service, Simulation, noise, sweep_static
    from sims.traces import Trace, bursty, natural_lengths, poisson, recorded, surge

__all__ = [
    "LoadDomain",
    "LoadEnv",
    "Result",
    "Service",
    "Simulation",
    "Trace",
    "bursty",
    "natural_lengths",
    "noise",
    "poisson",
    "recorded",
    "reference_service",
    "surge",
    "sweep_static",
]

_HOME = {
    "LoadDomain": "env",
    "LoadEnv": "env",
    "reference_service": "reference",
    "Result": "simulate",
    "Service": "simulate",
    "Simulation": "simulate",
    "noise": "simulate",
    "sweep_static": "simulate",
    "Trace": "traces",
    "bursty": "traces",
    "natural_lengths": "traces",
    "poisson": "traces",
    "recorded": "traces",
    "surge": "traces",
}

if "evolve/Load-v0" not in gymnasium.registry:
    gymnasium.register("evolve/Load-v0", entry_point="sims.env:LoadEnv")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sims' has no attribute {name!r}")
    return getattr(import_module(f"sims.{_HOME[name]}"), name)
