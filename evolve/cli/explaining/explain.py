"""`evolve plans MODEL --explain`: what the fused plans of one model run as one, and what for."""

from __future__ import annotations

import json as json_
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from evolve.cli.explaining.explanation import Explanation, Story
from evolve.cli.plain import say
from evolve.errors import EvolveError

if TYPE_CHECKING:
    from profiler.shapes import Shape
    from supernet.cache import ArtifactCache
    from supernet.capture.stored import StoredCapture
    from supernet.plans import Plan

__all__ = ["explain", "select"]

MIN_PREFIX = 4
FUSED = "fused"


def explain(
    cache: ArtifactCache,
    found: Sequence[Plan],
    model: str,
    *,
    limit: float,
    shape: str | None,
    plot: Path | None,
    json: bool,
) -> None:
    """Print the explanation of the plans that ``model`` names, and draw one of them."""
    from evolve.cli.explaining.explained import as_json, show

    result = explanation(cache, found, select(found, model), limit=limit, shape=shape)
    drawn = None if plot is None else _drawn(result, plot)
    if json:
        say(json_.dumps({"cache": str(cache.root), **as_json(result, drawn)}, indent=2))
        return
    show(result)
    if drawn is not None:
        say(f"drawn: {drawn}")


def select(found: Sequence[Plan], model: str) -> tuple[Plan, ...]:
    """All plans of the graph whose hash begins so, or the one plan whose key does."""
    if len(model) < MIN_PREFIX:
        raise _wrong(f"must be at least {MIN_PREFIX} characters of a graph or plan, got {model!r}")
    graphs = sorted({p.spec.graph_hash for p in found})
    matching = [graph for graph in graphs if graph.startswith(model)]
    keys = sorted({p.key for p in found if p.key.startswith(model)})
    if model in keys:
        keys = [model]
    if len(matching) + len(keys) == 1:
        return tuple(p for p in found if p.spec.graph_hash in matching or p.key in keys)
    shown = next((n for n in range(8, 64) if len({g[:n] for g in graphs}) == len(graphs)), 64)
    if matching or keys:
        listed = ", ".join([*(graph[:shown] for graph in matching), *keys])
        raise _wrong(f"must name one graph or plan, got {model!r} of {listed}; give more of it")
    known = ", ".join(graph[:shown] for graph in graphs)
    raise _wrong(f"must begin a graph ({known}) or a plan that `evolve plans` lists, got {model!r}")


def _wrong(text: str) -> typer.BadParameter:
    from evolve.journal.decision import printable

    return typer.BadParameter(printable(text, 600), param_hint="MODEL")


def explanation(
    cache: ArtifactCache,
    found: Sequence[Plan],
    chosen: Sequence[Plan],
    *,
    limit: float,
    shape: str | None,
) -> Explanation:
    """What is known of the chosen plans, the fused ones in detail, verified ones first."""
    graph = chosen[0].spec.graph_hash
    fused = sorted(
        (p for p in chosen if p.spec.backend == FUSED),
        key=lambda p: (p.state.value != "verified", p.spec.artifact_key, p.spec.threads),
    )
    capture = _capture(cache, graph) if fused else None
    at = None if capture is None else _shape(capture, shape)
    together = groupby(fused, key=lambda p: (p.state, p.spec.artifact_key))
    return Explanation(
        stories=tuple(_story(cache, capture, tuple(plans), at) for _, plans in together),
        others=tuple(p for p in chosen if p.spec.backend != FUSED),
        verified=tuple(
            p for p in found if p.spec.graph_hash == graph and p.state.value == "verified"
        ),
        shape=at,
        gb_per_s=_gb_per_s(),
        limit=limit,
    )


def _capture(cache: ArtifactCache, graph: str) -> StoredCapture:
    from supernet.capture.stored import StoredCapture, newest

    folder = newest(cache, graph)
    if folder is None:
        raise EvolveError(
            f"the capture of graph {graph[:8]} must be in the cache {cache.root}, got none; serve "
            "the model once more with this cache (plans.cache_dir), which captures it again"
        )
    return StoredCapture.read(folder)


def _shape(capture: StoredCapture, text: str | None) -> Shape:
    """What the user asked for, or the build's own 4 × 32 as far as the capture's grid goes."""
    from profiler.shapes import Shape

    grid, signature = capture.grid, capture.signature
    if text is None:
        rows = min(4, grid.max_rows) if signature.has_rows else 1
        length = min(max(32, grid.lengths[0]), grid.lengths[-1])
        return Shape(rows, length)
    given = re.fullmatch(r"([1-9]\d{0,6})[x×]([1-9]\d{0,6})", text.strip())
    shape = Shape(int(given[1]), int(given[2])) if given else None
    if shape is None or not grid.holds(shape) or shape.length < signature.min_length:
        first, last = signature.min_length, grid.lengths[-1]
        raise typer.BadParameter(
            f"must be ROWSxLENGTH from 1x{first} to {grid.max_rows}x{last}, which the model was "
            f"captured for, got {text!r}",
            param_hint="--shape",
        )
    return shape


def _story(
    cache: ArtifactCache,
    capture: StoredCapture | None,
    plans: tuple[Plan, ...],
    shape: Shape | None,
) -> Story:
    folder = cache.entry("plans", plans[0].spec.artifact_key)
    if folder is None or capture is None or shape is None:
        return Story(plans)
    from supernet.fusion.kernels.onednn import unavailable
    from supernet.fusion.report.region_report import read

    if (why := unavailable()) is not None:
        raise EvolveError(f"fused plans must be explained where they can run, got {why}")
    program = capture.program()
    return Story(plans, *read(folder, program, capture.signature, plans[0].spec.fusion, shape))


def _gb_per_s() -> float | None:
    """This machine's measured memory bandwidth. Nothing is measured here, or written."""
    from profiler.devices import profiler_of
    from profiler.units import FingerprintDatabase, host_database

    path = host_database().path
    if path is None or not path.exists():
        return None
    cpu = {"cpu": profiler_of("cpu")}
    known = FingerprintDatabase(path, profilers=cpu, measure=False).fingerprints()
    return known[0].memory_bandwidth_gb_per_s if known else None


def _drawn(result: Explanation, out: Path) -> Path:
    from supernet.fusion.report.drawing import draw
    from supernet.fusion.report.region_report import amount

    for story in result.stories:
        if story.regions is not None:
            saves = {a.number: f" · saves {amount(a.bytes_kept)}" for a in story.accounts
                     if a.bytes_kept}  # fmt: skip
            notes = {a.number - 1: a.runs_on + saves.get(a.number, "") for a in story.accounts}
            return draw(story.regions, notes, out, title=story.plans[0].key)
    raise EvolveError(
        "plot must have a fused plan whose files are in the cache, got none; other engines fuse "
        "by themselves and do not tell"
    )
