"""The load gym: `gymnasium.make("evolve/Load-v0")`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.params import RuleParams
from policies.presets import PRESETS
from sims.engine import environments as envs
from sims.engine.state import no_log
from sims.gym.domain import LoadDomain
from sims.gym.load_gym import REWARD_SCALE, TICK_MS, bounds, presets_of, single

__all__ = ["LoadEnv"]


class LoadEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Choose a setting of the dispatch rule every 100 ms of a simulated service under load.

    **Observation**, `Box(float32, [48 + P])` for P presets, as `policies.observe` makes it (the
    live runtime uses the same function; names: `policies.observation.observation_names`):

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
    | 38 | as 26, each answer counted with the accuracy of its plan | [0, 1] |
    | 39 | log of the learnt factor on the cost table, mean over workers | [-20, 20] |
    | 40 | cost of a switch of plan over the SLO | [0, 10] |
    | 41 | coefficient of variation of the workers' speeds | [0, 10] |
    | 42 | cost of loading a plan that is not held over the SLO | [0, 10] |
    | 43 | share of the plans that a worker can hold | [0, 1] |
    | 44 | log(1 + balance) of the mean batch: FLOPs per byte over the machine's | [0, 20] |
    | 45 | share of the bytes it reads that no cache answers | [0, 1] |
    | 46 | log(1 + MiB it moves), every operator run on its own | [0, 20] |
    | 47 | whether the fastest plan of the best tier for it has a fusion of ours | {0, 1} |
    | 48– | active preset, one-hot | {0, 1} |

    44 to 47 are the memory pattern (`Service.pattern`) at the mean rows and mean padded length of
    the last second's batches; 0 where there were none or the pattern is not known.

    **Action**, `Discrete(P)`: the preset in force for the next 100 ms. 0 is the default rule. Any
    whole number, an array of one included.

    **Reward**: the advantage over the default rule by state reset. From the same state and the
    same arrivals, utility of [action for 100 ms, then default for 100 ms] minus utility of
    [default for 200 ms], over the requests that could be answered, × 20. Utility is the summed
    accuracy of answers in time. Action 0 earns exactly 0.

    **Start**: an empty service drawn from `domain`; `reset(options={"service": ..., "trace": ...})`
    sets both instead. **End**: truncated when the trace has arrived; never terminated.

    **info**: `offered`, `met_ratio`, `utility` of the episode, at its end only.

    >>> env = LoadEnv(LoadDomain(seconds=1.0))
    >>> observation, _ = env.reset(seed=0)
    >>> env.step(np.int64(0))[1]
    0.0
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self, domain: LoadDomain | None = None, presets: Sequence[RuleParams] = PRESETS
    ) -> None:
        if not presets:
            raise ValueError("presets must hold at least one setting, got none")
        self.domain = domain or LoadDomain()
        self.presets = tuple(presets)
        self.action_space = gymnasium.spaces.Discrete(len(self.presets))
        self._bounds = bounds(len(self.presets))
        self.observation_space = gymnasium.spaces.Box(*self._bounds, dtype=np.float32)
        self._log = no_log()
        self._end_ms: float | None = None

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
        self._inputs, self._state, self._scratch = single(service, trace, self.presets)
        self._end_ms = math.ceil(trace.seconds * 1e3 / TICK_MS) * TICK_MS
        return self._observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self._end_ms is None:
            raise RuntimeError("step must come after reset")
        chosen = int(presets_of(action, 1, len(self.presets))[0])
        gained = envs.advantage(
            self._inputs, self._state, self._scratch, self._log, 0, 0, chosen, TICK_MS
        )
        truncated = float(self._state.env["now_ms"][0]) >= self._end_ms
        info = self._summary() if truncated else {}
        return self._observe(), REWARD_SCALE * gained, False, truncated, info

    def _observe(self) -> NDArray[np.float32]:
        seen = np.empty(self._bounds.low.size, np.float32)
        envs.observe_row(self._inputs, self._state, 0, self._bounds, seen)
        return seen

    def _summary(self) -> dict[str, Any]:
        env = self._state.env[0]
        offered = max(1, int(env["next"]))
        return {
            "offered": int(env["next"]),
            "met_ratio": float(env["met"]) / offered,
            "utility": float(env["utility_sum"]) / offered,
        }
