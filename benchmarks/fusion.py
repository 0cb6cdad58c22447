"""Which engine runs a batch fastest, cell by cell, and does evolve's choice keep up with it?

Peers (`benchmarks.peers`) and the plans that evolve builds, in one interleaved run per cell of
batch × length. *chosen* is the plan that evolve's own measured cost table holds for the fastest
among those within 1e-4 of the original (relative L2), *quality* the fastest within 0.005 by the
model's natural metric. Where there is none the original itself serves, which is eager.
`python -m benchmarks.fusion --help` lists how to ask for less.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import platformdirs

from benchmarks.field import Field, Options, say
from benchmarks.harness import publish
from benchmarks.models import SUBJECTS, Subject
from benchmarks.peers import PEERS, Job
from benchmarks.standings import ORIGINAL, Race, figures, show, tried
from profiler.costs import CostTable
from profiler.shapes import Shape
from profiler.units import host_database
from supernet.backends.onnx_file import ONNX_FILE, export_onnx
from supernet.building.build import BuildLimits, build_plan, compare_plans
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.capture.subject import Capture, capture
from supernet.fidelity import Limit
from supernet.plans import Plan, PlanState
from supernet.proposals import propose

ROWS, LENGTHS = (1, 2, 8, 32), (16, 64, 256)
SIX = ("eager", "compile", "compile-frozen", "compile-tuned", "onnxruntime", "openvino")
EXACT = 1e-4
MAX_ERROR = 0.005
SLOWEST_MS = 5000.0
ROUNDS = (5, 15)


def main(argv: Sequence[str] = ()) -> None:
    asked = parse(argv)
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # of the processes started from here
    races = []
    for name in asked.models:
        races.append(run(SUBJECTS[name], asked))
        show(races[-1])
        publish(  # after each model: the whole takes hours
            "fusion", "Chosen plans beside the fastest peer of each cell", figures(races),
            exact=EXACT, max_error=MAX_ERROR, **asdict(asked),
            races={race.subject.name: race.to_json() for race in races},
        )  # fmt: skip


def parse(argv: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=__doc__)
    grid = ",".join(f"{rows}x{length}" for rows in ROWS for length in LENGTHS)
    parser.add_argument("--models", default=",".join(SUBJECTS), help="default: all")
    parser.add_argument("--cells", default=grid, help="ROWSxLENGTH,...; images: rows alone count")
    parser.add_argument("--peers", default=",".join(SIX), help=f"of {', '.join(PEERS)}, or all")
    parser.add_argument(
        "--plans",
        default="served",
        choices=("served", "all"),
        help="time the plans that evolve would serve with, or all admitted ones",
    )
    parser.add_argument("--quick", action="store_true", help="cell 1x16 alone, fewest rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile-s", type=float, default=180.0, help="a peer's, per cell")
    parser.add_argument("--build-s", type=float, default=BuildLimits().budget_s, help="a plan's")
    parser.add_argument("--cache", type=Path, default=Path(platformdirs.user_cache_dir("evolve")))
    given = parser.parse_args(argv)
    models = tuple(given.models.split(","))
    peers = PEERS if given.peers == "all" else tuple(given.peers.split(","))
    if unknown := [*(set(models) - set(SUBJECTS)), *(set(peers) - set(PEERS))]:
        parser.error(f"models are {', '.join(SUBJECTS)}, peers {', '.join(PEERS)}, got {unknown}")
    cells = [Shape(*map(int, cell.split("x"))) for cell in given.cells.split(",")]
    return Options(
        models, (Shape(1, 16),) if given.quick else tuple(cells),
        (ORIGINAL, *(peer for peer in peers if peer != ORIGINAL)),
        (ROUNDS[0], ROUNDS[0]) if given.quick else ROUNDS,
        given.threads, given.compile_s, given.build_s, given.plans, SLOWEST_MS, given.cache,
    )  # fmt: skip


def run(subject: Subject, asked: Options) -> Race:
    """Capture, build, then cell by cell from small to large."""
    say(f"{subject.name}: capturing")
    learned = capture(subject.load(), subject.examples(), max_rows=max(ROWS))
    cache = ArtifactCache(asked.cache)
    plans, exact = build(subject, learned, cache, asked)
    race = Race(subject, _eager_mib(learned, cache, asked), plans, exact)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            ORIGINAL, subject.name, subject.metric, asked.threads,
            tuple(spec.name for spec in learned.signature.inputs),
            Path(folder), _onnx(learned, cache, Path(folder)),
        )  # fmt: skip
        field = Field(race, job, asked, _costs(learned, plans))
        cells = {shape if subject.lengths else Shape(shape.rows) for shape in asked.cells}
        try:
            for shape in sorted(cells, key=lambda shape: (shape.tokens, shape.rows)):
                field.cell(shape)
        finally:
            field.close()
    return race


def build(
    subject: Subject, learned: Capture, cache: ArtifactCache, asked: Options
) -> tuple[dict[str, Plan], frozenset[str]]:
    """Every plan that evolve proposes, by "backend-precision" with "-compiled" where what is left
    to torch is, and which are exact."""
    device = host_database().fingerprints()[0]
    folder = store(cache, learned)
    loose = BuildLimits(asked.build_s, metric=subject.metric, max_error=MAX_ERROR)
    tight = replace(loose, metric="relative_l2", max_error=EXACT)
    limit = Limit(subject.metric, MAX_ERROR)
    plans, exact = {}, set()
    for spec in propose(learned, device, threads=asked.threads, limit=limit):
        name = spec.title.replace(" ", "-")
        say(f"{subject.name}: building {name}")
        plans[name] = build_plan(cache, folder, spec, loose, device=device.key)
        # Judged again by another limit; what was built and measured is remembered.
        if plans[name].state is PlanState.VERIFIED and (
            build_plan(cache, folder, spec, tight, device=device.key).state is PlanState.VERIFIED
        ):
            exact.add(name)
        say(tried(name, plans[name], frozenset(exact)))
    say(f"{subject.name}: comparing plans")
    serving = [name for name, plan in plans.items() if plan.state is PlanState.VERIFIED]
    for among in ([name for name in serving if name in exact], serving):
        found = compare_plans(
            cache, folder, [plans[name] for name in among], loose, device=device.key
        )
        plans.update(zip(among, found, strict=True))
    return plans, frozenset(exact)


def _eager_mib(learned: Capture, cache: ArtifactCache, asked: Options) -> float:
    """What the original takes, counted as every plan's memory is."""
    device = host_database().fingerprints()[0]
    (spec,) = propose(learned, device, backends=("eager",), threads=asked.threads)
    limits = BuildLimits(asked.build_s)
    return build_plan(cache, store(cache, learned), spec, limits, device=device.key).memory_mib


def _costs(learned: Capture, plans: Mapping[str, Plan]) -> CostTable:
    table = CostTable(learned.grid)
    for name, plan in plans.items():
        if plan.state is PlanState.VERIFIED and plan.costs_ms:
            table.seed(name, plan.costs_ms)
    return table


def _onnx(learned: Capture, cache: ArtifactCache, scratch: Path) -> Path:
    """The captured program as ONNX; a build has mostly written it already."""
    folder = cache.entry("onnx", learned.graph_hash)
    if folder is not None:
        return folder / ONNX_FILE
    if learned.program is None:
        raise RuntimeError(f"the model must be captured to be compared, got: {learned.reason}")
    return export_onnx(learned.program, learned.signature, scratch)


if __name__ == "__main__":
    main(sys.argv[1:])
