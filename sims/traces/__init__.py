"""Request arrivals and lengths, seeded or recorded: what a simulated fleet has to face.

Every generator is a pure function of its arguments and its seed.

- `trace`: the value itself, and how traces are cut, joined, superposed and rescaled.
- `intensity`: a rate over time and the exact draw of arrivals from it. `lengths`: natural lengths.
- `steady`: one mean rate. `shaped`: a rate with a known shape. `modulated`: a random rate.
  `regimes`: one kind of traffic after another.
- `files`: recorded ones, read whole or piece by piece. `rules`: the checks of arguments.
"""

from __future__ import annotations

from sims.traces.files.reading import recorded, stream
from sims.traces.intensity import Intensity
from sims.traces.lengths import natural_lengths
from sims.traces.modulated import microburst, mmpp
from sims.traces.regimes import Regime, switching
from sims.traces.shaped import diurnal, flash_crowd, ramp_surge, surge
from sims.traces.steady import bursty, inhomogeneous, poisson
from sims.traces.trace import NoArrivals, Trace

__all__ = [
    "Intensity",
    "NoArrivals",
    "Regime",
    "Trace",
    "bursty",
    "diurnal",
    "flash_crowd",
    "inhomogeneous",
    "microburst",
    "mmpp",
    "natural_lengths",
    "poisson",
    "ramp_surge",
    "recorded",
    "stream",
    "surge",
    "switching",
]
