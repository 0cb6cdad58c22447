"""Write a captured program as an ONNX file."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from supernet.errors import BuildFailed
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["ONNX_FILE", "export_onnx", "missing_exporter"]

ONNX_FILE = "model.onnx"


def missing_exporter() -> str | None:
    """Why no ONNX file can be written here; None if it can."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed; pip install 'evolve-runtime[onnx]'"
    return None


def export_onnx(program: ExportedProgram, signature: Signature, folder: Path) -> Path:
    """``model.onnx`` in ``folder``, weights beside it so that processes can share their pages."""
    import torch

    from supernet.backends.masked import with_hidden_rows
    from supernet.capture.recurrent import any_length

    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    with warnings.catch_warnings(), any_length():
        warnings.simplefilter("ignore")  # the exporter warns about its own dependencies
        quiet.setLevel(logging.ERROR)
        try:
            # Rank-preserving dims are taken from the program, which already has them free.
            made = torch.onnx.export(
                with_hidden_rows(program),
                input_names=[f"input_{index}" for index in range(len(signature.inputs))],
                output_names=[spec.name for spec in signature.outputs],
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        finally:
            quiet.setLevel(level)
    if made is None:
        raise BuildFailed("torch.onnx gave no program")
    path = folder / ONNX_FILE
    made.save(str(path), external_data=True)
    return path
