"""The job of retraining: train in the twin, judge on traffic held back.

Reads `twin.npz` from the request's folder, writes `policy/` there; the result is the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernet.jobs.child import Say, main

__all__ = ["RetrainRequest", "work"]

EPISODE_S = 10.0
TRAIN_SHARE = 0.6
NICENESS = 19


@dataclass(frozen=True, slots=True)
class RetrainRequest:
    """`folder` holds the twin; `incumbent` the folder of the policy in force, "" for the rule."""

    folder: str
    incumbent: str
    steps: int
    seed: int


def work(request: RetrainRequest, say: Say) -> dict[str, Any]:
    """Train, judge, and save the policy beside the twin whatever the verdict."""
    from policies.tactical import TacticalPolicy
    from policies.train import TrainConfig, train
    from sims.evaluation.evaluate import evaluate
    from sims.evaluation.promotion_gate import judge
    from sims.gym.load_gym import LoadGym
    from sims.gym.vec_env import LoadVecEnv
    from sims.twin import Twin

    say("training", 0.0)
    folder = Path(request.folder)
    past, recent = Twin.load(folder).split(TRAIN_SHARE)
    practice = [e for es in past.regimes(EPISODE_S, seed=request.seed).values() for e in es]
    config = TrainConfig(
        steps=request.steps, environments=256, minibatch=2048, patience=4, seed=request.seed
    )
    gym = LoadGym(
        past.domain(seconds=EPISODE_S), config.environments, services=64, traces=32,
        seed=request.seed, threads=1,
    )  # fmt: skip
    trained = train(
        LoadVecEnv(gym),
        config,
        validate=lambda policy: float(np.mean(evaluate(practice, [policy]).utility)),
        progress=lambda done, total, _: say("training", done / total),
        card={"environment": "the runtime's own twin", "traffic_s": past.traffic.seconds},
    )
    say("judging", 0.0)
    incumbent = TacticalPolicy.load(request.incumbent) if request.incumbent else gym.presets[0]
    verdict = judge(trained.policy, incumbent, recent.regimes(EPISODE_S, seed=request.seed + 1))
    trained.policy.card = {**trained.policy.card, "verdict": verdict.to_json()}
    trained.policy.save(folder / "policy")
    return verdict.to_json()


if __name__ == "__main__":
    main(RetrainRequest, work, niceness=NICENESS)
