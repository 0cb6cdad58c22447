"""The twin of a running service: its costs as measured, its traffic as seen, to be replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.presets import DEFAULT
from sims.engine.inputs import Setting
from sims.engine.state import SERVED
from sims.evaluation.evaluate import Episode
from sims.gym.domain import LoadDomain, capacity_per_s
from sims.service import Disturbances, Result, Service, Switching
from sims.simulation import Simulation, simulate
from sims.traces import NoArrivals, Regime, Trace, bursty, flash_crowd, poisson

__all__ = ["Measured", "Twin"]

Floats = NDArray[np.float64]
NOISE_BATCHES = 1024
CALIBRATION_S = 10.0
"""How much of the last traffic the latencies are compared on."""
OVERHEADS_MS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
MOST_DELAY_MS = 3.0
UNKNOWN_COST = 10.0
"""What nobody measured counts as so many times the dearest known cost: it will not be chosen."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a running service knows of itself.

    `cost_ms` [P, R, L], NaN or inf where nobody measured; `lengths` [L]; `tier`, `accuracy` [P].
    `switch_ms`: what a change of plan costs a worker. `pattern` [R, L, 4]: the memory pattern
    where it is known.
    """

    cost_ms: Floats
    lengths: Floats
    slo_ms: float
    workers: int
    tier: NDArray[np.int64]
    accuracy: Floats
    switch_ms: float = 0.0
    pattern: Floats | None = None


@dataclass(frozen=True)
class Twin:
    """A service as it is believed to be now, and the requests it was sent of late."""

    service: Service
    traffic: Trace

    @classmethod
    def of(
        cls,
        measured: Measured,
        traffic: Trace,
        *,
        ratios: Floats,
        latencies_ms: Floats | None = None,
    ) -> Twin:
        """From what was measured and seen; costs that are not known are dear.

        `ratios` [B]: observed / predicted cost of recent batches; the twin's batches scatter
        likewise. `latencies_ms` [A]: of the last answers, served by the default rule.
        """
        known = np.isfinite(measured.cost_ms)
        if not known.any():
            raise ValueError("cost_ms must hold at least one known cost, got none")
        costs = np.where(known, measured.cost_ms, UNKNOWN_COST * measured.cost_ms[known].max())
        lengths = measured.lengths
        rng = np.random.default_rng(0)
        factor = rng.choice(ratios, NOISE_BATCHES) if ratios.size else np.ones(1)
        service = Service(
            costs, lengths, measured.slo_ms, measured.workers, tier=measured.tier,
            accuracy=measured.accuracy, hidden=Disturbances(factor),
            switching=Switching(measured.switch_ms), pattern=measured.pattern,
        )  # fmt: skip
        clipped = traffic.lengths.clip(1, int(lengths[-1])).astype(np.int32)
        made = cls(service, replace(traffic, lengths=clipped))
        return made if latencies_ms is None else made.calibrated(latencies_ms)

    def calibrated(self, latencies_ms: Floats) -> Twin:
        """With the overhead and the delay under which the last answers take as long as they did.

        What serving costs beside the plans is in no cost table: some of it keeps the worker from
        its next batch (overhead), some only the answer (delay). The median alone cannot tell them
        apart; the 90th percentile, which queueing makes, and under overload the number of answers
        can. `latencies_ms` must be all of the last `CALIBRATION_S` seconds.
        """
        if latencies_ms.size == 0:
            return self
        start_s = max(0.0, self.traffic.seconds - CALIBRATION_S)
        recent = self.traffic.window(start_s, np.inf)
        wanted = np.quantile(latencies_ms, (0.5, 0.9))
        found, least = self.service, np.inf
        for overhead_ms in OVERHEADS_MS:
            service = replace(self.service, overhead_ms=overhead_ms)
            simulation = Simulation(service, recent)
            simulation.advance(np.inf, DEFAULT)
            served = simulation.outcome == SERVED
            taken = (simulation.end_ms - recent.arrivals_s * 1e3)[served]
            got = np.quantile(taken, (0.5, 0.9)) if taken.size else wanted
            delay_ms = float(np.clip(wanted[0] - got[0], 0.0, MOST_DELAY_MS))
            off = float(np.abs((got + delay_ms) / wanted - 1.0).sum())
            off += 2.0 * abs(taken.size / latencies_ms.size - 1.0)
            if off < least:
                found, least = replace(service, delay_ms=delay_ms), off
        return replace(self, service=found)

    def replay(self, policy: Setting | Policy) -> Result:
        """What that policy would have made of the very same requests."""
        return simulate(self.service, self.traffic, policy)

    def split(self, share: float) -> tuple[Twin, Twin]:
        """The first `share` of the traffic's time, and the rest."""
        at_s = share * self.traffic.seconds
        parts = self.traffic.window(0.0, at_s), self.traffic.window(at_s, np.inf)
        return replace(self, traffic=parts[0]), replace(self, traffic=parts[1])

    def regimes(self, seconds: float, *, seed: int = 0) -> Mapping[str, tuple[Episode, ...]]:
        """The traffic in episodes: as it was, at 0.6 and 1.5 times the rate, and clumped.

        Clumped: the same rate over time, gaps with a squared coefficient of variation of 8. Each
        episode has disturbances of its own, drawn from the same distribution.
        """
        rng = np.random.default_rng(seed)
        kinds: dict[str, list[Episode]] = {"as seen": [], "calmer": [], "busier": [], "clumped": []}
        for start in np.arange(0.0, max(self.traffic.seconds - seconds / 2, 1e-9), seconds):
            try:
                piece = self.traffic.window(float(start), float(start) + seconds)
                rate_per_s = len(piece) / seconds
                made = {
                    "as seen": piece,
                    "calmer": piece.rescaled(0.6 * piece.rate_per_s),
                    "busier": piece.rescaled(1.5 * piece.rate_per_s),
                    "clumped": piece.with_cv2(rate_per_s, 8.0, seed=int(rng.integers(2**31))),
                }
            except (NoArrivals, ValueError):  # nobody came, or all at once: nothing to reshape
                continue
            hidden = replace(
                self.service.hidden, factor=rng.permutation(self.service.hidden.factor)
            )
            for name, trace in made.items():
                kinds[name].append((replace(self.service, hidden=hidden), trace))
        return {name: tuple(episodes) for name, episodes in kinds.items()}

    def domain(self, *, seconds: float = 10.0) -> LoadDomain:
        """What to train in: this service under traffic like the one seen, calmer and busier."""
        seen = self.traffic.rate_per_s / capacity_per_s(self.service, self.traffic.lengths)
        scatter = float(np.std(np.log(self.service.hidden.factor)))

        def like_seen(
            rate_per_s: float, seconds: float, *, seed: int, lengths: object = None
        ) -> Trace:
            rng = np.random.default_rng(seed)
            spare_s = max(0.0, self.traffic.seconds - seconds)
            start = float(rng.uniform(0.0, spare_s))
            piece = self.traffic.window(start, start + seconds)
            return piece.with_cv2(rate_per_s, float(rng.uniform(1.0, 8.0)), seed=seed)

        regimes: tuple[Regime, ...] = (like_seen, like_seen, poisson, _clumped, flash_crowd)
        workers, switch_ms = self.service.workers, self.service.switching.switch_ms
        return _OwnLengths(
            service=self.service, regimes=regimes, seconds=seconds,
            load=(max(0.05, 0.5 * seen), max(0.3, 1.8 * seen)), workers=(workers, workers),
            slo_ms=(self.service.slo_ms, self.service.slo_ms), slower=(0.9, 1.1),
            switch_ms=(0.5 * switch_ms, 1.5 * switch_ms),
            scatter=(0.5 * scatter, 1.5 * scatter), drift=(0.85, 1.2), learning=(0.05, 0.2),
            pool=self.traffic.lengths,
        )  # fmt: skip

    def save(self, folder: Path, latencies_ms: Floats | None = None) -> None:
        """Write `twin.npz`.

        `latencies_ms` [A]: for one that is to be calibrated by whoever loads it (see `of`): that
        plays the traffic several times, and compiles what plays it at first.
        """
        service = self.service
        np.savez(
            folder / "twin.npz",
            cost_ms=service.cost_ms, lengths=service.lengths, tier=_given(service.tier),
            accuracy=_given(service.accuracy), factor=service.hidden.factor,
            pattern=np.empty(0) if service.pattern is None else service.pattern,
            latencies_ms=np.empty(0) if latencies_ms is None else latencies_ms,
            arrivals_s=self.traffic.arrivals_s, request_lengths=self.traffic.lengths,
            about=json.dumps(
                {
                    "slo_ms": service.slo_ms,
                    "workers": service.workers,
                    "delay_ms": service.delay_ms,
                    "overhead_ms": service.overhead_ms,
                    "switch_ms": service.switching.switch_ms,
                }
            ),
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Twin:
        """The inverse of `save`."""
        with np.load(folder / "twin.npz", allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            service = Service(
                file["cost_ms"], file["lengths"], about["slo_ms"], about["workers"],
                tier=file["tier"], accuracy=file["accuracy"], delay_ms=about["delay_ms"],
                overhead_ms=about["overhead_ms"],
                hidden=Disturbances(file["factor"]), switching=Switching(about["switch_ms"]),
                pattern=file["pattern"] if file["pattern"].size else None,
            )  # fmt: skip
            made = cls(service, Trace(file["arrivals_s"], file["request_lengths"], "traffic"))
            known = "latencies_ms" in file  # one saved by an earlier version has none
            return made.calibrated(file["latencies_ms"]) if known else made


def _given(array: NDArray[np.generic] | None) -> NDArray[np.generic]:
    assert array is not None  # `of` always sets them
    return array


def _clumped(rate_per_s: float, seconds: float, *, seed: int, lengths: object = None) -> Trace:
    return bursty(rate_per_s, seconds, cv2=8.0, seed=seed, lengths=lengths)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _OwnLengths(LoadDomain):
    """A domain whose requests are as long as those that were seen."""

    pool: NDArray[np.int32] | None = None

    def lengths(self, rng: np.random.Generator) -> NDArray[np.int32]:
        return super().lengths(rng) if self.pool is None else self.pool
