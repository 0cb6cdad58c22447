"""A retraining process from the inside: train in the twin, judge on traffic held back, leave.

`python -m evolve.control_plane.retrain_job JOB.json`: reads `twin.npz` from the job's folder,
writes `policy/` and prints one JSON line of progress after another, the last one the verdict.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]

EPISODE_S = 10.0
TRAIN_SHARE = 0.6
NICENESS = 19


@dataclass(frozen=True)
class Job:
    """`folder` holds the twin; `incumbent` the folder of the policy in force, "" for the rule."""

    folder: str
    incumbent: str
    steps: int
    seed: int
    step: str


def main(path: str) -> None:
    job = Job(**json.loads(Path(path).read_text(encoding="utf-8")))
    from supernet.building.build_job import follow_parent

    follow_parent()
    os.nice(NICENESS)
    _say({"stage": "training", "share": 0.0})
    _say(_run(job))


def _run(job: Job) -> dict[str, Any]:
    from policies.tactical import TacticalPolicy
    from policies.train import TrainConfig, train
    from sims.evaluation.evaluate import contest
    from sims.evaluation.promotion_gate import judge
    from sims.gym.load_gym import LoadGym
    from sims.gym.vec_env import LoadVecEnv
    from sims.twin import Twin

    folder = Path(job.folder)
    past, recent = Twin.load(folder).split(TRAIN_SHARE)
    practice = [e for es in past.regimes(EPISODE_S, seed=job.seed).values() for e in es]
    config = TrainConfig(
        steps=job.steps, environments=256, minibatch=2048, patience=4, seed=job.seed
    )
    gym = LoadGym(
        past.domain(seconds=EPISODE_S), config.environments, services=64, traces=32,
        seed=job.seed, threads=1,
    )  # fmt: skip
    trained = train(
        LoadVecEnv(gym),
        config,
        validate=lambda policy: float(np.mean(contest(practice, [policy]).utility)),
        progress=lambda done, total, _: _say({"stage": "training", "share": done / total}),
        card={"environment": "the runtime's own twin", "traffic_s": past.traffic.seconds},
    )
    _say({"stage": "judging", "share": 1.0})
    incumbent = TacticalPolicy.load(job.incumbent) if job.incumbent else gym.presets[0]
    verdict = judge(trained.policy, incumbent, recent.regimes(EPISODE_S, seed=job.seed + 1))
    trained.policy.card = {**trained.policy.card, "verdict": verdict.to_json()}
    trained.policy.save(folder / "policy")
    return verdict.to_json()


def _say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
