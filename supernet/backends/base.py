"""The interface of backends: what every way of running a model looks like to the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from supernet.backends.loaded import LoadedPlan, Microbatched
from supernet.domain.engine import Engine
from supernet.errors import ArtifactBroken
from supernet.manifest import broken
from supernet.microbatches import Microbatches
from supernet.operators import define, read_operators
from supernet.plans import PlanSpec
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "ABOUT",
    "BACKENDS",
    "NUMPY_DTYPES",
    "Backend",
    "LoadedPlan",
    "Source",
    "backend",
    "check_artifact",
    "check_run",
    "load_plan",
    "read_signature",
    "supports_numpy",
    "write_signature",
]

ABOUT = "about.txt"
_SIGNATURE = "signature.json"

BACKENDS: dict[str, str] = {
    "eager": "supernet.backends.eager:EagerBackend",
    "aoti": "supernet.backends.aoti:AotiBackend",
    "onnxruntime": "supernet.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "supernet.backends.openvino:OpenVinoBackend",
    "fused": "supernet.backends.fused:FusedBackend",
}
"""Where each backend lives; imported only when asked for."""


class Source(Protocol):
    """What a build starts from; each form is made at first use and only once."""

    @property
    def signature(self) -> Signature: ...

    def program(self) -> ExportedProgram:
        """The captured program (imports torch)."""
        ...

    def references(self) -> Sequence[tuple[Sequence[Any], Sequence[Any]]]:
        """Batches with the original's answers: flat inputs and outputs as torch tensors."""
        ...

    def onnx(self) -> Path:
        """The program as an ONNX file, shared by the backends that read ONNX."""
        ...

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave (JSON-able) when it was first asked for, for this program."""
        ...

    def kernels(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder that ``make`` filled when it was first asked for by ``key``, for any program:
        kernels compiled for this machine."""
        ...


class Backend(Protocol):
    """One engine that can run a captured program."""

    @property
    def name(self) -> str: ...

    @property
    def needs_torch(self) -> bool:
        """Whether loading and running a plan imports torch."""
        ...

    @property
    def recompiles(self) -> bool:
        """Whether the first run at a new shape costs much more than the next (milliseconds).

        Its batches are then padded to the few lengths of the grid; others run as they are.
        """
        ...

    def unavailable(self) -> str | None:
        """Why it cannot be used here, in one line with the remedy; None if it can."""
        ...

    def version(self) -> str: ...

    def precisions(self, isa: str) -> tuple[str, ...]:
        """Precisions worth offering where compiled code may use ``isa`` (its key)."""
        ...

    def supports(self, signature: Signature) -> str | None:
        """Why it cannot run such tensors, in one line; None if it can."""
        ...

    def engine(self, fusion: str) -> Engine:
        """What it computes otherwise than torch, with the rules of ``PlanSpec.fusion``."""
        ...

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        """Write the artifact's files into the empty folder ``out``.

        What a person should know of it goes in one line to ``out / ABOUT``.
        """
        ...

    def load(self, artifact: Path, spec: PlanSpec) -> LoadedPlan:
        """The plan in ``artifact``, with ``spec.threads`` threads per call."""
        ...


def backend(name: str, table: dict[str, str] | None = None) -> Backend:
    """The backend called ``name``, one of ``BACKENDS``."""
    known = BACKENDS if table is None else table
    if name not in known:
        raise ValueError(f"backend must be one of {sorted(known)}, got {name!r}")
    module, attribute = known[name].split(":")
    made: Backend = getattr(import_module(module), attribute)()
    return made


def check_artifact(artifact: Path, spec: PlanSpec) -> None:
    """Raise `ArtifactBroken` unless every file of ``artifact`` is as it was written: a worker may
    be hired long after the plan was admitted."""
    if (fault := broken(artifact, spec.artifact_key)) is not None:
        raise ArtifactBroken(f"its artifact must be as it was built: {fault}")


def load_plan(
    artifact: Path,
    spec: PlanSpec,
    microbatches: Microbatches | None = None,
    table: dict[str, str] | None = None,
) -> LoadedPlan:
    """Load a built plan; imports torch only where its backend runs on torch.

    ``artifact`` is a folder from ``ArtifactCache``, which has checked its hashes.
    """
    engine = backend(spec.backend, table)
    if engine.needs_torch:
        define(read_operators(artifact))
    plan = engine.load(artifact, spec)
    return plan if microbatches is None else Microbatched(plan, microbatches)


def check_run(inputs: Sequence[Any], wanted: int, *, is_open: bool) -> None:
    """What every plan checks before it runs: engines differ in what they let pass."""
    if not is_open:
        raise ValueError("plan must be open to run, got a closed one")
    if len(inputs) != wanted:
        raise ValueError(f"inputs must number {wanted}, got {len(inputs)}")


NUMPY_DTYPES = frozenset(
    {"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"}
)


def write_signature(signature: Signature, folder: Path) -> None:
    """Leave the signature beside the model, for those that load it without torch."""
    (folder / _SIGNATURE).write_text(json.dumps(signature.to_json()), encoding="utf-8")


def read_signature(folder: Path) -> Signature:
    """What ``write_signature`` left."""
    return Signature.from_json(json.loads((folder / _SIGNATURE).read_text(encoding="utf-8")))


def supports_numpy(signature: Signature, dtypes: Collection[str] = NUMPY_DTYPES) -> str | None:
    """Why a backend that takes numpy arrays of ``dtypes`` cannot run ``signature``."""
    if signature.device != "cpu":
        return f"it runs on the CPU, and the model is on {signature.device}"
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in dtypes:
            return f"it has no {spec.dtype}, the dtype of {spec.name}"
    return None
