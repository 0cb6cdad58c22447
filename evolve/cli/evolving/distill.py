"""`evolve distill`: smaller versions of a model, searched, trained and judged, in a folder.

::

    DIR/NAME.json, NAME.safetensors   a tier: what it keeps, its quality; its weights, to be adopted
    DIR/NAME/                         the same as a module on its own (`Subnet.load`)
    DIR/report.json                   what was measured, and why these
    DIR/state/                        what the next call goes on from
"""

from __future__ import annotations

import json as json_
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolve.cli.evolving.subject import HELP, Subject, load
from evolve.cli.plain import say

if TYPE_CHECKING:
    from evolve.evolution.generation import Outcome
    from evolve.evolution.settings import GenerationConfig
    from supernet.distillation.settings import Hooks
    from supernet.distillation.settings import Progress as Steps

__all__ = ["distill"]

_INTERRUPTED = 130
_UNFINISHED = "unfinished"
_PARTS = (("scores", 0.05), ("every layer", 0.12), ("candidates", 0.08), ("together", 0.25),
          ("by itself", 0.35))  # fmt: skip
"""Words of a part, and its share of the time: those of `PipelineConfig`."""


def distill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=HELP)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tiers.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Of search and training.")] = 60.0,
    speedup: Annotated[
        list[float] | None, typer.Option(help="Times as fast a tier is to be; repeatable.")
    ] = None,
    min_quality: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Agreement with the original, at least.")
    ] = 0.97,
    agreement: Annotated[str, typer.Option(help="By which: cosine or top1.")] = "cosine",
    backend: Annotated[str, typer.Option(help="What it is to run on.")] = "eager",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for TensorBoard's event files.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Make MODEL smaller: search, train, judge on inputs held out, and save what passes.

    Stopped by Ctrl-C or killed, the same command goes on; called once more after its end, it goes
    on from the weights that it came to.
    """
    config = _config(speedup, min_quality, agreement, backend, minutes, seed)
    for option, folder in (("--out", out), ("--tensorboard", tensorboard)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"must be a folder, got the file {folder}", param_hint=option)
    subject = load(model)
    try:
        outcome = _evolved(subject, out, config, tensorboard)
    except _Stopped:
        say(f"stopped; the same command goes on from {out}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    if plot is not None:
        from evolve.cli.evolving.picture import draw

        draw(outcome.front, plot, model)
    _told(subject, outcome, out)


class _Stopped(Exception):
    """Its user stopped it."""


def _config(
    speedup: list[float] | None, min_quality: float, agreement: str, backend: str, minutes: float,
    seed: int,
) -> GenerationConfig:  # fmt: skip
    from evolve.evolution.anchors import Engine
    from evolve.evolution.choice import Bounds
    from evolve.evolution.settings import GenerationConfig
    from supernet.backends.base import BACKENDS

    if backend not in BACKENDS:
        known = ", ".join(sorted(BACKENDS))
        raise typer.BadParameter(f"must be one of {known}, got {backend!r}", param_hint="--backend")
    speedups = Bounds(tuple(speedup)).speedups if speedup else Bounds().speedups
    return GenerationConfig(
        agreement, min_quality, len(speedups), speedups, Engine(backend), 60 * minutes, seed=seed
    )


def _evolved(
    subject: Subject, out: Path, config: GenerationConfig, tensorboard: Path | None
) -> Outcome:
    from evolve.evolution.generation import next_generation
    from evolve.evolution.memory import recalled
    from supernet.distillation.pipeline import Stopped

    net, state = subject.net, out / "state"
    memory = recalled(state, net, subject.graph_hash)
    keep = out / _UNFINISHED / subject.graph_hash[:16]
    if memory.generation:
        say(f"{out} holds generation {memory.generation}: going on from its weights", err=True)
    elif state.exists() or (keep.parent.exists() and not keep.exists()):
        say(f"what {out} holds is of other weights than MODEL gave now: beginning anew", err=True)
    inputs = subject.prepared()
    with _screened(config, tensorboard) as (hooks, said):
        try:
            outcome, memory = next_generation(
                net, subject.grid, inputs, memory, config, hooks=hooks, keep=keep, say=said
            )
        except Stopped as stopped:
            raise _Stopped from stopped
    _save(subject, outcome, out)
    memory.keep(state)
    shutil.rmtree(keep.parent, ignore_errors=True)
    return outcome


@contextmanager
def _screened(
    config: GenerationConfig, tensorboard: Path | None
) -> Iterator[tuple[Hooks, Callable[[str], None]]]:
    """What training asks and tells, on a screen: Ctrl-C stops it between two steps, a second one
    at once."""
    from rich.progress import BarColumn, Progress, TextColumn

    from evolve.cli.screen import screen
    from supernet.distillation.settings import Hooks

    stop = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=screen(stderr=True)) as bar, _stopping(stop):
        task = bar.add_task("begin", total=config.budget_s, left="")
        part = [""]

        def said(words: str) -> None:
            part[0] = words
            show(words, _left_s(words, config.budget_s))

        def progressed(at: Steps) -> None:
            words = f"{part[0]}, step {at.step}, loss {at.loss:.4f}"
            show(words, at.left_s + _left_s(part[0], config.budget_s, inside=True))

        def show(words: str, left_s: float) -> None:
            done_s = max(0.0, config.budget_s - left_s)
            bar.update(task, description=words, completed=done_s, left=_in_words(left_s))

        yield Hooks(progressed, stop=stop.is_set, tensorboard=tensorboard), said


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _left_s(words: str, budget_s: float, *, inside: bool = False) -> float:
    """Seconds of the parts that are still to come, with the present one unless ``inside`` it."""
    at = next((i for i, (name, _) in enumerate(_PARTS) if name in words), None)
    if at is None:
        early = words.startswith(("begin", "times", "units"))
        return sum(share for _, share in _PARTS) * budget_s if early else 0.0
    return sum(share for _, share in _PARTS[at + inside :]) * budget_s


def _in_words(left_s: float) -> str:
    if left_s < 1.0:
        return ""
    return f"{left_s:.0f} s left" if left_s < 100 else f"{left_s / 60:.0f} min left"


def _save(subject: Subject, outcome: Outcome, out: Path) -> None:
    from supernet.elastic.trained import write_weights

    out.mkdir(parents=True, exist_ok=True)
    for tier in outcome.tiers:
        subject.net.extract(tier.spec, tier.weights).save(out / tier.name)
        write_weights(tier.weights, out / f"{tier.name}.safetensors")
        _write(
            out / f"{tier.name}.json",
            {
                "name": tier.name,
                "spec": tier.spec.to_json(),
                "weights": f"{tier.name}.safetensors",
                "module": tier.name,
                "quality": tier.quality,
                "quality_lower": tier.lower,
                "speedup": tier.speedup,
                "reason": tier.reason,
            },
        )
    _write(
        out / "report.json",
        {
            "tiers": [tier.name for tier in outcome.tiers],
            "reason": outcome.reason,
            "generation": outcome.generation,
            "measured": outcome.measured,
            "front": [point.to_json() for point in outcome.front],
            "notes": [*subject.notes, *outcome.notes],
        },
    )


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json_.dumps(record, indent=2), encoding="utf-8")


def _told(subject: Subject, outcome: Outcome, out: Path) -> None:
    from evolve.cli.evolving.search import print_points

    print_points(outcome.front, f"generation {outcome.generation}, {outcome.measured} measured")
    for tier in outcome.tiers:
        say(f"{out / tier.name}: {tier.reason}")
    say(outcome.reason)
    for note in (*subject.notes, *outcome.notes):
        say(note)
