"""The suite that policies are compared on: eleven regimes at six loads, over six quality tiers.

Each cell is a regime at a load of the *cheapest* tier's capacity. Seeds make the arrivals; every
policy faces the same ones. Three regimes are recorded and need their files; a suite without them
says so by its regimes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sims.evaluation.evaluate import Episode
from sims.gym.domain import LoadDomain
from sims.service import Service
from sims.traces import (
    Regime,
    Trace,
    bursty,
    diurnal,
    flash_crowd,
    microburst,
    mmpp,
    poisson,
    recorded,
    surge,
    switching,
)

__all__ = [
    "LOADS",
    "RECORDED",
    "Cell",
    "Suite",
    "cheapest_per_s",
    "mixed_domain",
    "six_tiers",
    "suite",
]

LOADS = (0.3, 0.5, 0.7, 0.9, 1.2, 1.5)
RECORDED = ("azure-shape", "azure-replay", "twitter-shape")
"""The regimes that need `data`."""

_ACCURACY = (0.8016, 0.7944, 0.7825, 0.7764, 0.7669, 0.7382)
_ONE_MS = (4.64, 3.33, 2.45, 2.04, 1.83, 1.41)
_SIXTEEN_MS = (30.7, 21.6, 15.7, 13.5, 11.9, 7.35)
_ONE_LENGTH = np.ones(1, np.int32)

Make = Callable[[float, int], Trace]


def six_tiers(*, workers: int = 4, slo_ms: float = 36.0, max_rows: int = 16) -> Service:
    """Six sub-networks of one convolutional supernet, all requests equal.

    Accuracies and the latencies of 1 and 16 rows are about those of the six sub-networks in
    "SuperServe" (Khare et al., NSDI 2025, figure 5); linear between, so this is a synthetic table.
    """
    rows = (np.arange(1, max_rows + 1) - 1) / 15.0
    one, sixteen = np.array(_ONE_MS)[:, None], np.array(_SIXTEEN_MS)[:, None]
    return Service(
        (one + (sixteen - one) * rows)[:, :, None], np.ones(1), slo_ms, workers,
        tier=np.arange(len(_ACCURACY)), accuracy=np.array(_ACCURACY),
    )  # fmt: skip


def cheapest_per_s(service: Service) -> float:
    """What the cheapest plan carries at its largest batch on all workers, requests per s."""
    table = service.table("cost_ms")[0, :, :, 0]
    return float(service.workers * 1e3 * table.shape[1] / table[:, -1].min())


@dataclass(frozen=True)
class Cell:
    """One regime at one load."""

    regime: str
    load: float


@dataclass(frozen=True)
class Suite:
    """Cells and how to make their episodes.

    `regimes`: by name, a function of (mean rate per s, seed).
    """

    service: Service
    regimes: Mapping[str, Make]
    loads: tuple[float, ...] = LOADS

    def cells(self) -> Iterator[Cell]:
        """Every regime at every load."""
        return (Cell(regime, load) for regime in self.regimes for load in self.loads)

    def episodes(self, cell: Cell, seeds: Sequence[int]) -> list[Episode]:
        """One episode per seed."""
        rate_per_s = cell.load * cheapest_per_s(self.service)
        make = self.regimes[cell.regime]
        salt = zlib.crc32(f"{cell.regime}@{cell.load}".encode())
        return [(self.service, make(rate_per_s, (salt + 7919 * seed) % 2**31)) for seed in seeds]


def suite(
    service: Service | None = None, *, seconds: float = 10.0, data: Path | None = None
) -> Suite:
    """The suite; with `data`, a folder of recorded traces, the three recorded regimes as well."""
    once = partial(_shaped, seconds=seconds)
    regimes: dict[str, Make] = {
        "poisson": once(poisson),
        "gamma-8": once(partial(bursty, cv2=8.0)),
        "mmpp": once(mmpp),
        "diurnal": once(diurnal),
        "microburst": once(microburst),
        "surge": partial(_surge, seconds=seconds),
        "flash-crowd": once(partial(flash_crowd, decay_s=seconds / 5)),
        "switching": once(partial(switching, dwell_s=seconds / 4)),
    }
    if data is not None:
        azure = data / "traces" / "AzureLLMInferenceTrace_conv.csv"
        twitter = data / "traces" / "twitter_2021-08_days01-14_per_second.txt.gz"
        regimes["azure-shape"] = partial(_shape_of, recorded(azure), seconds=seconds)
        regimes["azure-replay"] = partial(_replayed, recorded(azure))
        day = recorded(twitter, start_s=86_400.0, seconds=43_200.0)
        regimes["twitter-shape"] = partial(_shape_of, day, seconds=seconds)
    return Suite(service or six_tiers(), regimes)


def _shaped(regime: Callable[..., Trace], *, seconds: float) -> Make:
    return lambda rate, seed: regime(rate, seconds, seed=seed, lengths=_ONE_LENGTH)


def _surge(rate_per_s: float, seed: int, *, seconds: float) -> Trace:
    """Four times the base rate for half of the time."""
    base = rate_per_s / 2.5
    return surge(base, 4.0 * base, seconds, seed=seed, lengths=_ONE_LENGTH)


def _alike(trace: Trace) -> Trace:
    return Trace(trace.arrivals_s, np.ones(len(trace), np.int32), trace.name, trace.seed)


def _shape_of(source: Trace, rate_per_s: float, seed: int, *, seconds: float) -> Trace:
    """The rate of a random stretch of the recording, one minute per second, arrivals Poisson."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0.0, max(0.0, source.seconds - 60.0 * seconds))
    piece = source.window(start, min(source.seconds, start + 60.0 * seconds))
    squeezed = piece.rescaled(len(piece) / seconds)
    return _alike(squeezed.with_cv2(rate_per_s, 1.0, seed=seed, window_s=0.2))


def _replayed(source: Trace, rate_per_s: float, seed: int) -> Trace:
    """A random six tenths of the recording, time compressed to the rate wanted."""
    start = np.random.default_rng(seed).uniform(0.0, 0.4) * source.seconds
    return _alike(source.window(start, start + 0.6 * source.seconds).rescaled(rate_per_s))


def mixed_domain(suite: Suite, *, drift: bool = True, learning: float = 0.0) -> LoadDomain:
    """The domain in which one setting cannot be right everywhere: 2 to 8 uneven workers, SLO 24 to
    60 ms, all costs × 0.7 to 1.4, hidden drift × 0.7 to 2, 1 % spikes, switches of 0 to 4 ms, 2 to
    6 resident plans and 10 to 50 ms to load another."""

    def seeded(make: Make) -> Regime:
        return lambda rate_per_s, seconds, *, seed, lengths=None: make(rate_per_s, seed)

    return LoadDomain(
        service=suite.service,
        regimes=tuple(seeded(make) for make in suite.regimes.values()),
        load=(0.3, 1.5),
        workers=(2, 8),
        slo_ms=(24.0, 60.0),
        unevenness=(0.0, 0.3),
        switch_ms=(0.0, 4.0),
        load_ms=(10.0, 50.0),
        resident=(2, 6),
        scatter=(0.0, 0.1),
        spike_share=(0.0, 0.01),
        drift=(0.7, 2.0) if drift else (1.0, 1.0),
        learning=(learning, learning),
    )
