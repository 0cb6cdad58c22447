"""Anchors: a few sub-networks built for the engine that serves, and timed in turns.

Each is built as plans are: its program, a backend, files in a scratch folder. Nothing of them is
kept but the times.
"""

from __future__ import annotations

import atexit
import functools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from evolve.evolution.genomes import Genomes, uniform_slices
from profiler.facts import isa_key
from profiler.fingerprint import fingerprint
from profiler.shapes import Shape
from supernet.backends.base import Backend, LoadedPlan, backend
from supernet.backends.eager import EagerPlan
from supernet.building.side_by_side import in_turns
from supernet.building.timing import clock_of, resize_batch
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.fidelity import Limit
from supernet.plans import PlanSpec
from supernet.proposals import FUSION
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

__all__ = ["EAGER", "Engine", "Kernels", "Timing", "anchors", "timed"]

Kernels: TypeAlias = Callable[[str, Callable[[Path], None]], Path]
"""The folder that was filled when a key was first asked for, as `Source.kernels` has it."""

_LEAST = 2
_MIXED = Limit("relative_l2", 0.005)


@dataclass(frozen=True, slots=True)
class Engine:
    """What a sub-network will run on: a backend's name, a precision, threads of one call."""

    backend: str = "eager"
    precision: str = "fp32"
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}, {self.threads} threads"


EAGER = Engine()


@dataclass(frozen=True, slots=True)
class Timing:
    """Measured milliseconds of one sub-network for a batch of one shape."""

    spec: SubnetSpec
    shape: Shape
    ms: float

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_json(),
            "shape": [self.shape.rows, self.shape.length],
            "ms": self.ms,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Timing:
        return Timing(
            SubnetSpec.from_json(data["spec"]), Shape(*map(int, data["shape"])), float(data["ms"])
        )


def anchors(net: Supernet, genomes: Genomes) -> tuple[SubnetSpec, ...]:
    """The original, half of its layers, two uniform slices, and half the layers of the smaller:
    what sets apart the cost of a layer from that of its width."""
    slices = sorted(uniform_slices(genomes), key=lambda spec: _kept(spec))
    some = [net.full, _half(net, net.full)]
    if slices:
        some += [slices[0], slices[len(slices) // 2], _half(net, slices[0])]
    return tuple(dict.fromkeys(net.space.check(spec) for spec in some))


def _kept(spec: SubnetSpec) -> int:
    return sum(sum(a.heads for a in layer.attention) + sum(layer.widths) for layer in spec.layers)


def _half(net: Supernet, spec: SubnetSpec) -> SubnetSpec:
    """Every second of the layers that can be left out."""
    for layer in [one.name for one in net.anatomy.layers if one.stream is not None][1::2]:
        spec = spec.replace(layer, skipped=True)
    return spec.canonical()


def timed(
    net: Supernet,
    specs: Sequence[SubnetSpec],
    shapes: Sequence[Shape],
    inputs: Sequence[Tensor],
    engine: Engine = EAGER,
    kernels: Kernels | None = None,
    build_s: float = math.inf,
) -> tuple[Timing, ...]:
    """Milliseconds of each at each shape, all taken in turns, on ``inputs`` repeated to the shape.

    ``kernels``: where compiled ones are kept; None: they are compiled once for this process. After
    ``build_s`` no further one is built, the first two apart: some engines take a minute for each.
    Raises whatever building raises: a `BuildFailed`, an `ImportError`, a `ValueError`.
    """
    torch.set_num_threads(engine.threads)
    clock = clock_of(engine.threads, net.signature.device)
    found = []
    with TemporaryDirectory(prefix="evolve-anchors-") as folder:
        plans: dict[str, LoadedPlan] = {}
        began_s = time.monotonic()
        try:
            for i, spec in enumerate(specs):
                if i < _LEAST or time.monotonic() - began_s < build_s:
                    own = Path(folder) / str(i)
                    plans[str(i)] = _loaded(net, spec, inputs, engine, own, kernels or _fresh)
            for shape in shapes:
                batch = resize_batch(inputs, net.signature, shape)
                calls = {name: partial(plan.run, _arrays(plan, batch))
                         for name, plan in plans.items()}  # fmt: skip
                expected_ms = {name: _once(call, clock) for name, call in calls.items()}
                medians = in_turns(calls, expected_ms, clock)
                found += [Timing(specs[int(name)], shape, ms) for name, ms in medians.items()]
        finally:
            for plan in plans.values():
                plan.close()
    return tuple(found)


def _once(call: Callable[[], object], clock: Callable[[], float]) -> float:
    call()
    began = clock()
    call()
    return max(1e-3, (clock() - began) * 1e3)


def _arrays(plan: LoadedPlan, batch: Sequence[Tensor]) -> list[Any]:
    return list(batch) if plan.arrays == "torch" else [tensor.numpy() for tensor in batch]


def _loaded(
    net: Supernet, spec: SubnetSpec, inputs: Sequence[Tensor], engine: Engine, folder: Path,
    kernels: Kernels,
) -> LoadedPlan:  # fmt: skip
    program = net.program(spec)
    if engine.backend == "eager":
        return EagerPlan(program)
    chosen = backend(engine.backend)
    if why := chosen.unavailable() or chosen.supports(net.signature):
        raise ValueError(why)
    folder.mkdir()
    out = folder / "plan"
    out.mkdir()
    asked = _plan_spec(chosen, engine)
    chosen.build(_Cut(net.signature, program, inputs, folder, kernels), asked, out)
    return chosen.load(out, asked)


def _plan_spec(chosen: Backend, engine: Engine) -> PlanSpec:
    return PlanSpec(
        "anchor", engine.backend, engine.precision, engine.threads, "", str(torch.__version__),
        chosen.version(), isa_key(fingerprint(measure=False)),
        "+".join(FUSION) if engine.backend == "fused" else "",
        str(_MIXED) if engine.precision == "mixed" else "",
    )  # fmt: skip


@functools.cache
def _kernels_folder() -> Path:
    """A folder that lasts as long as this process: libraries, once loaded, go on using theirs."""
    folder = Path(tempfile.mkdtemp(prefix="evolve-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _fresh(key: str, make: Callable[[Path], None]) -> Path:
    own = _kernels_folder() / key
    if not own.exists():
        own.mkdir()
        make(own)
    return own


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A sub-network's program as what a build starts from; its files lie in ``folder``."""

    signature: Signature
    _program: ExportedProgram
    _inputs: Sequence[Tensor]
    _folder: Path
    _kernels: Kernels

    def program(self) -> ExportedProgram:
        return self._program

    def references(self) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        return [(self._inputs, EagerPlan(self._program).run(self._inputs))]

    def onnx(self) -> Path:
        from supernet.backends.onnx_file import export_onnx

        folder = self._folder / "onnx"
        folder.mkdir(exist_ok=True)
        return export_onnx(self._program, self.signature, folder)

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        return make()

    def kernels(self, key: str, make: Callable[[Path], None]) -> Path:
        return self._kernels(key, make)
