"""What every backend must keep to; a new one is added to the list in ``test_backends``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.backends.base import LoadedPlan, backend
from supernet.backends.onnx_file import ONNX_FILE, export_onnx
from supernet.capture.subject import Capture
from supernet.plans import PlanSpec
from supernet.proposals import FUSION
from supernet.signature import Signature


class MemorySource:
    """A capture to build from, without a cache or a process in between."""

    def __init__(self, capture: Capture, folder: Path) -> None:
        self._capture, self._folder = capture, folder

    @property
    def signature(self) -> Signature:
        return self._capture.signature

    def program(self) -> Any:
        return self._capture.program

    def references(self) -> Any:
        return [(reference.inputs, reference.outputs) for reference in self._capture.references]

    def onnx(self) -> Path:
        path = self._folder / ONNX_FILE
        return path if path.exists() else export_onnx(self.program(), self.signature, self._folder)

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        return make()

    def kernels(self, key: str, make: Callable[[Path], None]) -> Path:
        folder = self._folder / "own-kernels"
        if not folder.exists():
            folder.mkdir()
            make(folder)
        return folder


def make_spec(
    capture: Capture, name: str, precision: str = "fp32", isa: str = "x86_64"
) -> PlanSpec:
    return PlanSpec(
        capture.graph_hash, name, precision, 1, capture.weights_version, str(torch.__version__),
        backend(name).version(), isa, "+".join(FUSION) if name == "fused" else "",
    )  # fmt: skip


def run(plan: LoadedPlan, inputs: Sequence[Tensor]) -> list[Any]:
    """Outputs for torch inputs, in whatever arrays the plan gives."""
    if plan.arrays == "torch":
        return plan.run(inputs)
    outputs = plan.run([np.ascontiguousarray(tensor.numpy()) for tensor in inputs])
    assert all(isinstance(output, np.ndarray) for output in outputs)
    return outputs
