"""Do a thousand wrap and load cycles leave anything behind?

One cycle: `wrap` with a warm cache, wait for the plan, answers held against the model's own, and
`close`. The cycles take turns among the engines; thread and process workers have theirs in a
process of their own, with its own temporary files and cache, side by side: nothing is timed. What a
library makes once, when it is first used, does not count: everything is held against what was there
after one cycle of each engine, and memory grows from the cycle on that stands in `SETTLED`.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

import evolve
from benchmarks.fresh import Encoder
from benchmarks.harness import Figure, publish

CYCLES = {"thread": 800, "process": 200}
SETTLED = {"thread": 100, "process": 50}
ANSWERS = 4
AT_MOST = {
    "wrong answers": 0, "cycles without the plan": 0, "entries left": 0,
    "Python threads left": 0, "threads left": 0, "processes left": 0,
    "processes left after the end": 0, "file descriptors left": 0, "memory, MB a cycle": 0.1,
}  # fmt: skip
MARK = "EVOLVE_BENCHMARK_CYCLES"  # in the environment of all that the cycles start
QUESTION = "Do a thousand wrap and load cycles leave anything behind?"


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the one plan that its cycles load, by its title."""

    plan: str
    model: nn.Module
    shape: tuple[int, ...]
    backends: tuple[str, ...]

    @property
    def example(self) -> tuple[Tensor]:
        """The same in every process: another one would be another question to the cache."""
        return (torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(0)),)


@dataclass(frozen=True, slots=True)
class Left:
    """What is there between two cycles."""

    entries: frozenset[str] = field(repr=False)  # temporary files and the cache
    python_threads: frozenset[str] = field(repr=False)
    threads: int
    processes: int  # beside this one
    descriptors: int
    mb: float


def main() -> None:
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for case in cases():
            _built(case, "thread", cache)
        with ThreadPoolExecutor() as pool:
            places = [Path(folder) / kind for kind in CYCLES]
            for kind, found in zip(CYCLES, pool.map(_cycled, CYCLES, places), strict=True):
                rows |= {f"{kind} workers: {name}": value for name, value in found.items()}
    publish("cycles", QUESTION, rows, cycles=CYCLES, settled=SETTLED, answers=ANSWERS)


def _cycled(kind: str, place: Path) -> dict[str, Any]:
    """The figures of one kind of workers, from a process of its own that starts in `place`."""
    shutil.copytree(place.parent / "cache", place / "cache")
    (temporary := place / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cycles", kind, str(place / "cache")],
        check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary), MARK: str(place)},
    )  # fmt: skip
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    measured["processes left after the end"] = len(_processes(str(place)))
    return {
        name: Figure(value, AT_MOST[name]) if name in AT_MOST else value
        for name, value in measured.items()
    }


def cases() -> tuple[Case, ...]:
    """One for each way in which a plan is loaded."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 8)).eval()
    cnn = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()  # fmt: skip
    encoder = Encoder().eval()
    return (
        Case("onnxruntime fp32", mlp, (16,), ("onnxruntime",)),
        Case("openvino fp32", cnn, (3, 16, 16), ("openvino",)),
        Case("fused fp32", encoder, (12, 64), ("fused",)),
        Case("aoti fp32", mlp, (16,), ("aoti",)),
        Case("fused mixed compiled", encoder, (12, 64), ("fused", "aoti")),
    )


def measured(kind: str, cache: Path) -> dict[str, Any]:
    """All cycles of one kind of workers, in this process."""
    asked = [(case, _built(case, kind, cache)) for case in cases()]
    for case, config in asked:
        cycle(case, config)
    before = _left(cache)
    wrong = without = by_original = 0
    mb = [before.mb]
    for number in range(CYCLES[kind]):
        case, config = asked[number % len(asked)]
        found = cycle(case, config)
        wrong, without, by_original = wrong + found[0], without + found[1], by_original + found[2]
        after = _left(cache)
        mb.append(after.mb)
        if number % 25 == 0:
            print(f"{kind} workers, cycle {number}: {after}", file=sys.stderr, flush=True)
    settled = SETTLED[kind]
    grown = mb[settled + 1 :]
    new = sorted(after.entries - before.entries)
    return {
        "cycles": CYCLES[kind],
        "wrong answers": wrong,
        "cycles without the plan": without,
        "rows answered by the original": by_original,  # an inexact plan serves under load only
        "entries left": len(new),
        "which": ", ".join(new[:5]) or "none",
        "made once by libraries": ", ".join(sorted(before.entries - _files(cache))) or "nothing",
        "Python threads left": len(after.python_threads - before.python_threads),
        "threads left": after.threads - before.threads,
        "processes left": after.processes,
        "file descriptors left": after.descriptors - before.descriptors,
        "memory, MB a cycle": float(np.polyfit(range(len(grown)), grown, 1)[0]),
        "memory, MB": f"{mb[0]:.1f} first, {mb[settled]:.1f} settled, {mb[-1]:.1f} last",
    }


def _config(kind: str, cache: Path, **plans: Any) -> evolve.Config:
    return evolve.Config().replace(
        workers={"kind": kind, "count": 1, "threads": 1}, plans={"cache_dir": cache, **plans}
    )


def _built(case: Case, kind: str, cache: Path) -> evolve.Config:
    """Settings by which just the case's plan is loaded, which lies in the cache."""
    plans = {"backends": case.backends, "precisions": (case.plan.split()[1],)}
    with evolve.wrap(case.model, case.example, config=_config(kind, cache, **plans)) as runtime:
        runtime.wait_for_plans()
        admitted = {plan.spec.title: plan.key for plan in runtime.parts.library.admitted()}
    return _config(kind, cache, **plans, only=(admitted[case.plan],))


def cycle(case: Case, config: evolve.Config) -> tuple[int, bool, int]:
    """Wraps, asks and closes; how many answers were wrong, whether the plan was not loaded, and how
    many rows the original answered."""
    wrong = 0
    with evolve.wrap(case.model, case.example, config=config) as runtime:
        runtime.wait_for_plans()
        for rows in range(1, ANSWERS + 1):
            x = torch.randn(rows, *case.shape)
            wrong += not torch.allclose(runtime(x), _wanted(case.model, x), rtol=1e-2, atol=1e-2)
        rows_by_plan = runtime.status()["rows_by_plan"]
        return wrong, not runtime.parts.pool.held(), rows_by_plan.get("original", 0)


def _wanted(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return model(x)


def _left(cache: Path) -> Left:
    gc.collect()
    me = psutil.Process()
    return Left(
        entries=_files(cache) | _files(Path(tempfile.gettempdir())),
        python_threads=frozenset(
            f"{thread.name} {thread.ident}" for thread in threading.enumerate()
        ),
        threads=me.num_threads(),
        processes=len(_processes(os.environ[MARK])) - 1,
        descriptors=me.num_fds(),
        mb=me.memory_full_info().uss / 1e6,
    )


def _files(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder.parent)) for path in folder.rglob("*"))


def _processes(mark: str) -> list[psutil.Process]:
    """All that come of the cycles, whoever is their parent by now."""
    return [process for process in psutil.process_iter() if _has(process, mark)]


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:
        return False


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]))))
