"""The load gym: `gymnasium.make("evolve/Load-v0")`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.params import RuleParams
from policies.presets import PRESETS
from policies.tactical import observation_names, observe
from sims.reference import reference_service
from sims.service import Result, Service, noise
from sims.simulation import Simulation
from sims.traces import Trace, bursty, natural_lengths, poisson, surge

__all__ = ["LoadDomain", "LoadEnv", "capacity_per_s"]

REWARD_SCALE = 20.0
"""Brings the advantage of a good tick to the order of 1 (feasibility study, decision 0006)."""


def capacity_per_s(service: Service, lengths: NDArray[np.int32]) -> float:
    """Requests of these lengths per second, were every batch as cheap as batches get."""
    fastest = np.nanmin(service.cost_ms, axis=0)
    rows = np.arange(1, fastest.shape[0] + 1)[:, None]
    work_ms = (fastest / rows).min(axis=0)[np.searchsorted(service.lengths, lengths)]
    return float(service.workers * 1e3 / work_ms.mean())


@dataclass(frozen=True)
class LoadDomain:
    """What the episodes of a gym are drawn from, each quantity uniformly within (low, high).

    `service`: costs and plans, the reference encoder by default. `load`: mean arrivals over
    `capacity_per_s`. `cv2`: burstiness of the Gamma traces. `surge`: peak over base rate. `scale`:
    factor on all costs. `scatter`, `spike_share`, `drift`: hidden disturbances (`noise`).
    """

    service: Service | None = None
    seconds: float = 10.0
    load: tuple[float, float] = (0.3, 1.3)
    cv2: tuple[float, float] = (1.0, 8.0)
    surge: tuple[float, float] = (2.0, 6.0)
    workers: tuple[int, int] = (1, 4)
    slo_ms: tuple[float, float] = (25.0, 100.0)
    scale: tuple[float, float] = (0.7, 1.4)
    scatter: tuple[float, float] = (0.0, 0.2)
    spike_share: tuple[float, float] = (0.0, 0.02)
    drift: tuple[float, float] = (0.7, 1.6)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 1.0):
            raise ValueError(f"seconds must be finite and at least 1, got {self.seconds}")
        for name in ("load", "cv2", "surge", "workers", "slo_ms", "scale", "drift"):
            low, high = getattr(self, name)
            if not (0 < low <= high and math.isfinite(high)):
                raise ValueError(
                    f"{name} must be (low, high) with 0 < low <= high, got {low, high}"
                )

    def draw(self, rng: np.random.Generator) -> tuple[Service, Trace]:
        """One episode's service and trace."""
        base = self.service or reference_service()
        cost_ms = base.cost_ms * rng.uniform(*self.scale)
        factor = noise(
            rng,
            scatter=rng.uniform(*self.scatter),
            spike_share=rng.uniform(*self.spike_share),
            drift=self.drift,
        )
        service = replace(
            base,
            cost_ms=cost_ms,
            true_ms=None if base.true_ms is None else base.true_ms * (cost_ms / base.cost_ms),
            slo_ms=rng.uniform(*self.slo_ms),
            workers=int(rng.integers(self.workers[0], self.workers[1] + 1)),
            factor=factor,
        )
        longest = int(service.lengths[-1])
        pool = (
            natural_lengths(2000, rng, longest=longest)
            if longest > 51
            else rng.integers(1, longest + 1, 2000).astype(np.int32)
        )
        rate_per_s = rng.uniform(*self.load) * capacity_per_s(service, pool)
        return service, self._trace(rng, rate_per_s, pool)

    def _trace(self, rng: np.random.Generator, rate_per_s: float, pool: NDArray[np.int32]) -> Trace:
        seed = int(rng.integers(2**31))
        rate_per_s = max(rate_per_s, 5.0 / self.seconds)  # an episode without a request is none
        kind = int(rng.integers(3))
        while True:
            try:
                if kind == 0:
                    return poisson(rate_per_s, self.seconds, seed=seed, lengths=pool)
                if kind == 1:
                    cv2 = rng.uniform(*self.cv2)
                    return bursty(rate_per_s, self.seconds, cv2=cv2, seed=seed, lengths=pool)
                peak = rng.uniform(*self.surge)
                base_per_s = rate_per_s * 2.0 / (1.0 + peak)
                return surge(base_per_s, base_per_s * peak, self.seconds, seed=seed, lengths=pool)
            except ValueError:  # a very bursty, sparse draw can be empty: draw again
                seed += 1


class LoadEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Choose a setting of the dispatch rule every 100 ms of a simulated service under load.

    **Observation**, `Box(float32, [38 + P])` for P presets, as `policies.observe` makes it (the
    live runtime uses the same function; names: `policies.tactical.observation_names`):

    | entries | what | bounds |
    |---|---|---|
    | 0–9 | log(1 + arrivals) in the last ten slots of 100 ms, oldest first | [0, 20] |
    | 10–19 | the same in ten slots of 10 ms | [0, 20] |
    | 20 | log(1 + arrivals per s), 40 ms memory | [0, 20] |
    | 21 | log(1 + burstiness), squared CV of the gaps | [0, 20] |
    | 22 | log(1 + requests waiting) | [0, 20] |
    | 23 | slack of the head over the SLO | [-10, 10] |
    | 24 | busy share of the workers | [0, 1] |
    | 25 | log(1 + answers per s) | [0, 20] |
    | 26, 27 | met and refused over all that ended in the last second | [0, 1] |
    | 28, 29 | p50, p99 latency over the SLO | [0, 10] |
    | 30, 31 | mean and largest observed / believed cost of batches | [0, 10] |
    | 32 | log(1 + mean length) | [0, 20] |
    | 33 | padding over computed positions | [0, 1] |
    | 34, 35 | log(workers), log(SLO in ms) | [-20, 20] |
    | 36, 37 | whether any request, any batch ended in the last second | {0, 1} |
    | 38– | active preset, one-hot | {0, 1} |

    **Action**, `Discrete(P)`: the preset in force for the next 100 ms. 0 is the default rule.

    **Reward**: the advantage over the default rule by state reset. From the same state and the
    same arrivals, utility of [action for 100 ms, then default for 100 ms] minus utility of
    [default for 200 ms], over the requests that could be answered, × 20. Utility is the summed
    accuracy of answers in time. Action 0 earns exactly 0.

    **Start**: an empty service drawn from `domain`; `reset(options={"service": ..., "trace": ...})`
    sets both instead. **End**: truncated when the trace has arrived; never terminated.

    **info**: `offered`, `met_ratio`, `utility`, `p99_ms` of the episode so far, at its end only.

    >>> env = LoadEnv(LoadDomain(seconds=1.0))
    >>> observation, _ = env.reset(seed=0)
    >>> env.step(np.int64(0))[1]
    0.0
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)
    tick_ms = 100.0

    def __init__(
        self, domain: LoadDomain | None = None, presets: tuple[RuleParams, ...] = PRESETS
    ) -> None:
        if not presets:
            raise ValueError("presets must hold at least one setting, got none")
        self.domain = domain or LoadDomain()
        self.presets = presets
        self._arrays = tuple(preset.to_array() for preset in presets)
        self.action_space = gymnasium.spaces.Discrete(len(presets))
        low, high = _bounds(len(presets))
        self._low, self._high = low, high
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self._simulation: Simulation | None = None
        self._active = 0
        self._end_ms = 0.0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        service, trace = self.domain.draw(self.np_random)
        if options:
            unknown = set(options) - {"service", "trace"}
            if unknown:
                raise ValueError(f"options must be 'service' or 'trace', got {sorted(unknown)}")
            service = options.get("service", service)
            trace = options.get("trace", trace)
        self._simulation = Simulation(service, trace)
        self._active = 0
        self._end_ms = math.ceil(trace.seconds * 1e3 / self.tick_ms) * self.tick_ms
        return self._observe(self._simulation), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        simulation = self._simulation
        if simulation is None:
            raise RuntimeError("step must come after reset")
        chosen = int(action)
        if not 0 <= chosen < len(self.presets):
            raise ValueError(f"action must be in 0..{len(self.presets) - 1}, got {action}")
        reward = self._advance(simulation, chosen)
        self._active = chosen
        truncated = simulation.now_ms >= self._end_ms
        info = _summary(simulation.result()) if truncated else {}
        return self._observe(simulation), reward, False, truncated, info

    def _advance(self, simulation: Simulation, action: int) -> float:
        """Play one tick under `action`; its advantage over the default rule."""
        start, now_ms = simulation.moment(), simulation.now_ms
        if action == 0:
            simulation.advance(now_ms + self.tick_ms, self._arrays[0])
            return 0.0
        simulation.advance(now_ms + 2 * self.tick_ms, self._arrays[0])
        reference = simulation.worth_since(start)
        concerned = max(1, simulation.offered - simulation.offered_at(start) + start.queue.size)
        simulation.restore(start)
        simulation.advance(now_ms + self.tick_ms, self._arrays[action])
        after = simulation.moment()
        simulation.advance(now_ms + 2 * self.tick_ms, self._arrays[0])
        gained = simulation.worth_since(start) - reference
        simulation.restore(after)
        return REWARD_SCALE * gained / concerned

    def _observe(self, simulation: Simulation) -> NDArray[np.float32]:
        seen = observe(simulation.signals(), self._active, len(self.presets))
        return np.clip(seen, self._low, self._high)


def _bounds(presets: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Low and high of every entry, from the kind its name tells."""
    low, high = [], []
    for name in observation_names(presets):
        if name.startswith("log_"):
            signed = name in ("log_workers", "log_slo_ms")
            low.append(-20.0 if signed else 0.0)
            high.append(20.0)
        elif name.endswith("_over_slo"):
            low.append(-10.0 if name.startswith("head") else 0.0)
            high.append(10.0)
        else:
            low.append(0.0)
            high.append(10.0 if name.startswith("cost_ratio") else 1.0)
    return np.array(low, np.float32), np.array(high, np.float32)


def _summary(result: Result) -> dict[str, Any]:
    return {
        "offered": result.offered,
        "met_ratio": result.met_ratio,
        "utility": result.utility,
        "p99_ms": result.p99_ms,
    }
