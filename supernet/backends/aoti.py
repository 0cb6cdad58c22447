"""The program compiled ahead of time by TorchInductor to one shared library.

On a GPU its kernels are Triton's, and a batch whose shape comes again is one CUDA graph.

On the CPU its weights are frozen: folded, packed for oneDNN, and products of one input (q, k, v)
made one. That halves the time of an encoder, and ties the artifact to the instruction sets of its
spec. https://github.com/pytorch/pytorch/blob/main/torch/_inductor/freezing.py

``run`` uses the calling thread's own number of torch threads (it is compiled to ask at run
time); a worker sets it with ``torch.set_num_threads``. The call holds the GIL.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from supernet.backends.base import ABOUT, Source, check_run, read_signature, write_signature
from supernet.backends.fused_plan import ENGINE
from supernet.backends.packages import load_package, unpack
from supernet.capture.recurrent import is_recurrent
from supernet.domain.engine import Engine, words
from supernet.errors import BuildFailed
from supernet.fusion.kernels.native import compiler
from supernet.plans import PlanSpec
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["AotiBackend", "AotiPlan"]

_FILE = "model.pt2"
_RECIPE = 3  # raised when the same program would be compiled otherwise
_FROZEN = {"freezing": True, "cpp.enable_concat_linear": True}


COMPILED_ENGINE = Engine(
    wraps_indices=True,
    aborts=True,
    refused=frozenset((name, "int8") for name in ("to", "_to_copy")),  # 300.0 is 127, not 44
    drops_nan=ENGINE.drops_nan,
    drops_inf=words("gelu"),
)
"""What TorchInductor's code does otherwise: a bad index or a divisor of 0 ends the process;
products and their activations are oneDNN's."""


class AotiBackend:
    """AOTInductor packages; needs a C++ compiler to build, none to run."""

    name = "aoti"
    needs_torch = True
    recompiles = False

    def unavailable(self) -> str | None:
        if compiler() is not None:
            return None
        return "no C++ compiler is on the PATH; install g++ or clang++, or set CXX"

    def version(self) -> str:
        return f"{torch.__version__}-r{_RECIPE}"

    def precisions(self, isa: str) -> tuple[str, ...]:
        return ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        return None

    def engine(self, fusion: str) -> Engine:
        return COMPILED_ENGINE

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        torch.set_num_threads(spec.threads)
        if source.signature.has_length and is_recurrent(source.program()):
            raise BuildFailed("AOTInductor unrolls recurrent layers, for one length only")
        packed = source.signature.device == "cpu" and _freezes(source, out / _FILE)
        if not packed:
            _compile(source.program(), out / _FILE, {})
        unpack(out / _FILE)
        about = f"one library, its weights {'packed for oneDNN' if packed else 'as they are'}"
        if source.signature.device != "cpu":
            about += ", a CUDA graph per shape"
        (out / ABOUT).write_text(about, encoding="utf-8")
        write_signature(source.signature, out)

    def load(self, artifact: Path, spec: PlanSpec) -> AotiPlan:
        signature = read_signature(artifact)
        call = _runner(artifact / _FILE)
        if signature.device != "cpu":
            from supernet.backends.cuda_graphs import CudaGraphs

            call = CudaGraphs(call, signature.device)
        return AotiPlan(call, len(signature.inputs))


class AotiPlan:
    """A loaded package."""

    arrays: Literal["torch"] = "torch"

    def __init__(self, call: Callable[[list[Any]], Any], wanted: int) -> None:
        self._wanted = wanted
        self._call: Callable[[list[Any]], Any] | None = call

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        check_run(inputs, self._wanted, is_open=self._call is not None)
        assert self._call is not None  # for the type checker: just checked
        return list(self._call(list(inputs)))

    def close(self) -> None:
        self._call = None


def _freezes(source: Source, package: Path) -> bool:
    """Whether Inductor could fold and pack the weights; then the package is written."""
    try:
        _compile(source.program(), package, _FROZEN)
    except Exception:  # no list of what freezing cannot do exists; without it all compiles
        return False
    return True


def _compile(program: ExportedProgram, package: Path, options: Mapping[str, Any]) -> None:
    shared: dict[str, Any] = {
        # Ask for the number of threads at run time: one artifact serves all settings.
        "cpp.dynamic_threads": True,
        "compile_threads": 1,
        # Every build has its own folder: headers compiled first, and six trial programs about the
        # CPU's instructions, cost 15 s and save nothing.
        "aot_inductor.precompile_headers": False,
        "cpp.vec_isa_ok": True,
    }
    with warnings.catch_warnings(), torch.no_grad():  # with gradients it freezes nothing
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(package), inductor_configs={**shared, **options}
        )


def _runner(package: Path) -> Callable[[list[Any]], Any]:
    """The package as a function of flat inputs.

    The C++ loader is private, and takes milliseconds; the public one is the fallback where it
    is missing or has other arguments, and takes seconds the first time.
    """
    try:
        return load_package(package)
    except (AttributeError, TypeError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            public = torch._inductor.aoti_load_package(str(package))
        return lambda inputs: _as_list(public(*inputs))


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
