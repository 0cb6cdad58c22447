"""What a search stands on: the genes of a supernet, and what sub-networks will cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from evolve.evolution.anchors import EAGER, Engine, Kernels, Timing, anchors, timed
from evolve.evolution.genomes import Genomes, genomes_of
from evolve.evolution.inputs import Inputs
from evolve.evolution.latency import Latency, fitted, mix_of, shapes_of
from evolve.evolution.memory import Memory
from profiler.shapes import Shape, ShapeGrid
from supernet.elastic.supernet import Supernet
from supernet.errors import BuildFailed
from supernet.jobs.errors import JobRefused

__all__ = ["Ground", "ground"]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """`timings` of anchors on `engine`, which is eager where the one that was asked for could not
    be timed, as a note says."""

    genomes: Genomes
    latency: Latency
    timings: tuple[Timing, ...]
    engine: Engine
    notes: tuple[str, ...] = ()


def ground(
    net: Supernet,
    grid: ShapeGrid,
    inputs: Inputs,
    engine: Engine,
    memory: Memory,
    *,
    kernels: Kernels | None = None,
    keep: Path | None = None,
    build_s: float = math.inf,
) -> Ground:
    """From times in ``memory`` or under ``keep``, else taken now, building for so long.

    `JobRefused` where the model has nothing that can be left out, or cannot be timed.
    """
    genomes = _genomes(net)
    known = memory.timings if memory.engine == engine else _kept(keep, engine)
    notes: tuple[str, ...] = ()
    if not known:
        shapes = shapes_of(grid, inputs.lengths, batchable=net.signature.batchable)
        known, engine, notes = _timed(net, genomes, shapes, inputs, engine, kernels, build_s)
        _keep(keep, engine, known)
    shapes = tuple(dict.fromkeys(timing.shape for timing in known))
    latency = fitted(net, known, mix_of(shapes, inputs.lengths))
    return Ground(genomes, latency, known, engine, notes)


def _genomes(net: Supernet) -> Genomes:
    try:
        return genomes_of(net.space)
    except ValueError as error:
        why = "; ".join(f"{one.where or 'it'}: {one.why}" for one in net.refused[:3])
        raise JobRefused(f"{error}{f' ({why})' if why else ''}") from error


def _timed(
    net: Supernet, genomes: Genomes, shapes: tuple[Shape, ...], inputs: Inputs, engine: Engine,
    kernels: Kernels | None, build_s: float,
) -> tuple[tuple[Timing, ...], Engine, tuple[str, ...]]:  # fmt: skip
    specs, example = anchors(net, genomes), inputs.corpus.training[0].inputs
    threads = torch.get_num_threads()
    try:
        return timed(net, specs, shapes, example, engine, kernels, build_s), engine, ()
    except (BuildFailed, ImportError, OSError, RuntimeError, ValueError) as error:
        if engine == EAGER:
            raise JobRefused(f"sub-networks cannot be timed: {error}") from error
        note = f"timed by eager, for {engine} could not be: {type(error).__name__}: {error}"[:300]
        return timed(net, specs, shapes, example, EAGER), EAGER, (note,)
    finally:
        torch.set_num_threads(threads)


def _kept(keep: Path | None, engine: Engine) -> tuple[Timing, ...]:
    path = None if keep is None else keep / _name(engine)
    if path is None or not path.exists():
        return ()
    return tuple(map(Timing.from_json, json.loads(path.read_text(encoding="utf-8"))))


def _keep(keep: Path | None, engine: Engine, timings: tuple[Timing, ...]) -> None:
    if keep is None:
        return
    keep.mkdir(parents=True, exist_ok=True)
    stage = keep / "timings.tmp"
    stage.write_text(json.dumps([timing.to_json() for timing in timings]), encoding="utf-8")
    stage.replace(keep / _name(engine))


def _name(engine: Engine) -> str:
    return f"timings-{engine.backend}-{engine.precision}-{engine.threads}.json"
