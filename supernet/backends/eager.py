"""The captured program on torch's own kernels: the backend that is always there."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from supernet.backends.base import Source, check_run
from supernet.domain.engine import Engine
from supernet.errors import BuildFailed
from supernet.plans import PlanSpec
from supernet.signature import Signature

__all__ = ["EagerBackend", "EagerPlan", "load_program", "save_program"]

_FILE = "program.pt2"


class EagerBackend:
    """Runs the exported graph node by node."""

    name = "eager"
    needs_torch = True
    recompiles = False

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return str(torch.__version__)

    def precisions(self, isa: str) -> tuple[str, ...]:
        return ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        return None

    def engine(self, fusion: str) -> Engine:
        return Engine()

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        save_program(source.program(), out / _FILE)

    def load(self, artifact: Path, spec: PlanSpec) -> EagerPlan:
        return EagerPlan(load_program(artifact / _FILE))


class EagerPlan:
    """The program's graph with its weights bound; no guards, no argument handling."""

    arrays: Literal["torch"] = "torch"

    def __init__(self, program: ExportedProgram) -> None:
        self._call: Callable[..., Any] | None = program.graph_module
        self._bound = [_bound(program, spec) for spec in program.graph_signature.input_specs]
        self._wanted = sum(bound is None for bound in self._bound)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        check_run(inputs, self._wanted, is_open=self._call is not None)
        assert self._call is not None  # for the type checker: just checked
        given = iter(inputs)
        arguments = [next(given) if bound is None else bound for bound in self._bound]
        with torch.no_grad():
            answers = list(self._call(*arguments))
        if answers and answers[0].is_cuda:
            torch.cuda.current_stream(answers[0].device).synchronize()
        return answers

    def close(self) -> None:
        self._call = None
        self._bound = []


def _bound(program: ExportedProgram, spec: Any) -> Tensor | None:
    if spec.kind is InputKind.USER_INPUT:
        return None
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        held = program.state_dict.get(spec.target)
        held = program.constants[spec.target] if held is None else held
        if isinstance(held, Tensor):
            return held.detach()
    raise BuildFailed(f"the program must take tensors only, got {spec.kind} {spec.target!r}")


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write the program where ``load_program`` reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own archive format
        torch.export.save(program, str(path))


def load_program(path: Path) -> ExportedProgram:
    """Read a program that this machine's own cache holds and has checked by hash.

    Raises `BuildFailed` for a file that could only be read by unpickling, which runs what code it
    names: `torch.export.load` would do so for older formats and for some kinds of tensors.
    """
    _check_plain(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(str(path))


def _check_plain(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            configs = [json.loads(archive.read(n)) for n in names if n.endswith("_config.json")]
    except (zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise BuildFailed(f"the program's file is damaged: {error}") from error
    if not any(name.endswith("/archive_format") for name in names):
        raise BuildFailed("the program's file must be a PT2 archive of this version")
    legacy = [n for n in names if n.endswith(".pt") and "/sample_inputs/" not in n]
    entries = [entry for config in configs for entry in config.get("config", {}).values()]
    if legacy or any(entry.get("use_pickle", True) for entry in entries):
        raise BuildFailed("weights of a kind that can only be stored by pickle are not read back")
