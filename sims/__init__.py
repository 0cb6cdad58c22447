"""What would happen? A service under load, simulated event by event with the live rule.

- `traces`: when requests arrive and how long they are. `reference`: measured costs to try with.
- `simulate`: run a trace (`sims.simulate.simulate`), sweep static settings. `streaming`: a trace
  longer than memory. `engine`: the compiled part.
- `devices`: how long a call takes on devices that are not here.
- `scenarios`: a surge against autoscalers, a mixed fleet against each device on its own.
- `evaluation`: policies by name set beside each other, with intervals and an upper bound.
- `gym`: `evolve/Load-v0`, registered with Gymnasium by importing this package.

Names are loaded on first use: importing this package loads neither numba nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from sims.devices import DEVICES, DeviceModel
    from sims.gym.domain import LoadDomain
    from sims.gym.env import LoadEnv
    from sims.gym.load_gym import LoadGym
    from sims.reference import reference_service
    from sims.scenarios.topology import LINKS, Fleet, Link, Topology
    from sims.simulate import (
        Disturbances,
        Hidden,
        Result,
        Service,
        Simulation,
        Switching,
        Units,
        noise,
        sweep_static,
    )
    from sims.streaming import simulate_stream
    from sims.traces import (
        Intensity,
        NoArrivals,
        Regime,
        Trace,
        bursty,
        diurnal,
        flash_crowd,
        inhomogeneous,
        microburst,
        mmpp,
        natural_lengths,
        poisson,
        ramp_surge,
        recorded,
        stream,
        surge,
        switching,
    )
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "devices": "DEVICES DeviceModel",
            "gym.domain": "LoadDomain",
            "gym.env": "LoadEnv",
            "gym.load_gym": "LoadGym",
            "reference": "reference_service",
            "scenarios.topology": "Fleet LINKS Link Topology",
            "simulate": (
                "Disturbances Hidden Result Service Simulation Switching Units noise sweep_static"
            ),
            "streaming": "simulate_stream",
            "traces": (
                "Intensity NoArrivals Regime Trace bursty diurnal flash_crowd inhomogeneous "
                "microburst mmpp natural_lengths poisson ramp_surge recorded stream surge "
                "switching"
            ),
        },
    )

__all__ = [
    "DEVICES",
    "LINKS",
    "DeviceModel",
    "Disturbances",
    "Fleet",
    "Hidden",
    "Intensity",
    "Link",
    "LoadDomain",
    "LoadEnv",
    "LoadGym",
    "NoArrivals",
    "Regime",
    "Result",
    "Service",
    "Simulation",
    "Switching",
    "Topology",
    "Trace",
    "Units",
    "bursty",
    "diurnal",
    "flash_crowd",
    "inhomogeneous",
    "microburst",
    "mmpp",
    "natural_lengths",
    "noise",
    "poisson",
    "ramp_surge",
    "recorded",
    "reference_service",
    "simulate_stream",
    "stream",
    "surge",
    "sweep_static",
    "switching",
]

if "evolve/Load-v0" not in gymnasium.registry:
    gymnasium.register("evolve/Load-v0", entry_point="sims.gym.env:LoadEnv")
