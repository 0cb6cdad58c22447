"""`evolve train`: a tactical policy by PPO in the load gym, exported as plain arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolve.cli.plain import say

if TYPE_CHECKING:
    from policies.train import TrainConfig

__all__ = ["train"]

VALIDATION_EPISODES = 60
CARD_EPISODES = 200


def train(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the exported policy.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Training settings in YAML: fields of TrainConfig."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Environment steps in all; over --config.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; over --config.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for TensorBoard's event files.")
    ] = None,
) -> None:
    """Train a tactical policy in evolve/Load-v0 and export it (safetensors and JSON)."""
    settings = _settings(config, steps, seed)
    for option, folder in (("--out", out), ("--tensorboard", tensorboard)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"must be a folder, got the file {folder}", param_hint=option)

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from evolve.cli.screen import screen
    from policies.train import train as run
    from sims.evaluation.model_card import (
        VALIDATION_SALT,
        held_out,
        model_card,
        to_markdown,
        utility,
    )
    from sims.gym.domain import LoadDomain
    from sims.gym.load_gym import LoadGym
    from sims.gym.vec_env import LoadVecEnv

    domain = LoadDomain()
    envs = LoadVecEnv(LoadGym(domain, settings.environments, seed=settings.seed))
    suite = held_out(domain, VALIDATION_EPISODES, settings.seed, VALIDATION_SALT)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen(stderr=True)) as bar:
        task = bar.add_task("Training", total=settings.steps)

        def on_rollout(done: int, total: int, reward: float) -> None:
            told = f"Training, {done:,} of {total:,} steps, reward {reward:+.4f}"
            bar.update(task, completed=done, description=told)

        trained = run(
            envs,
            settings,
            validate=lambda policy: utility(policy, suite),
            progress=on_rollout,
            tensorboard=tensorboard,
        )
        bar.update(task, completed=settings.steps, description="Writing the model card")
        policy = trained.policy
        policy.card = {
            **policy.card,
            **model_card(policy, trained.config, domain, episodes=CARD_EPISODES),
        }
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out)
    described = {**policy.card, "presets": policy.presets}
    (out / "MODEL_CARD.md").write_text(to_markdown(described), encoding="utf-8")
    gained = policy.card["results"]
    say(
        f"exported to {out}: {gained['points over the rule']:+.2f} points of utility over the rule "
        f"({gained['low']:+.2f} to {gained['high']:+.2f}) on {gained['episodes']} unseen episodes"
    )
    say(f"compare it: evolve simulate --policies rule,static,{out}")


def _settings(path: Path | None, steps: int | None, seed: int | None) -> TrainConfig:
    from policies.train import TrainConfig

    settings = TrainConfig()
    if path is not None:
        from evolve.config.yaml_file import load_flat

        settings = load_flat(path, settings)
    if steps is not None:
        settings = replace(settings, steps=steps)
    return settings if seed is None else replace(settings, seed=seed)
