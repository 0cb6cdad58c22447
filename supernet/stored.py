"""A capture on disk: all that a build process needs, and nothing of the user's code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.shapes import Shape, ShapeGrid
from supernet.cache import ArtifactCache
from supernet.signature import Signature

if TYPE_CHECKING:
    from supernet.capture import Capture

__all__ = ["PROGRAM", "StoredBatch", "StoredCapture", "store"]

PROGRAM = "program.pt2"
_RECORD = "capture.json"
_TENSORS = "references.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class StoredBatch:
    """One reference batch: flat inputs and the original's flat outputs, numpy or torch."""

    shape: Shape
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredCapture:
    """Signature and grid of a stored capture; programs and batches are read when asked for."""

    folder: Path
    graph_hash: str
    signature: Signature
    grid: ShapeGrid
    shapes: tuple[Shape, ...]

    @staticmethod
    def read(folder: Path) -> StoredCapture:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return StoredCapture(
            folder=folder,
            graph_hash=str(record["graph_hash"]),
            signature=Signature.from_json(record["signature"]),
            grid=ShapeGrid.from_json(record["grid"]),
            shapes=tuple(Shape(int(rows), int(length)) for rows, length in record["shapes"]),
        )

    def batches(self, arrays: str) -> tuple[StoredBatch, ...]:
        """The reference batches as ``"numpy"`` arrays (torch is not imported) or ``"torch"``."""
        tensors = _load(self.folder / _TENSORS, arrays)
        return tuple(
            StoredBatch(
                shape,
                tuple(tensors[f"{n}.in.{i}"] for i in range(len(self.signature.inputs))),
                tuple(tensors[f"{n}.out.{i}"] for i in range(len(self.signature.outputs))),
            )
            for n, shape in enumerate(self.shapes)
        )


def store(cache: ArtifactCache, capture: Capture) -> Path:
    """Put a capture that has a program into the cache, once; its folder there."""
    if capture.program is None:
        raise ValueError(f"capture must have a program to be stored, got none: {capture.reason}")
    found = cache.entry("captures", capture.graph_hash)
    if found is not None:
        return found
    from safetensors.torch import save_file

    from supernet.backends.eager import save_program

    tensors = {}
    for n, reference in enumerate(capture.references):
        for i, tensor in enumerate(reference.inputs):
            tensors[f"{n}.in.{i}"] = _own(tensor)
        for i, tensor in enumerate(reference.outputs):
            tensors[f"{n}.out.{i}"] = _own(tensor)
    record = {
        "graph_hash": capture.graph_hash,
        "signature": capture.signature.to_json(),
        "grid": capture.grid.to_json(),
        "shapes": _pairs([reference.shape for reference in capture.references]),
    }
    with cache.adding("captures", capture.graph_hash) as folder:
        save_program(capture.program, folder / PROGRAM)
        save_file(tensors, str(folder / _TENSORS))
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    stored = cache.entry("captures", capture.graph_hash)
    if stored is None:
        raise OSError(f"the capture just stored in {cache.root} cannot be read back")
    return stored


def _own(tensor: Any) -> Any:
    """A plain copy: safetensors refuses tensors that share memory."""
    return tensor.detach().cpu().contiguous().clone()


def _pairs(shapes: Sequence[Shape]) -> list[list[int]]:
    return [[shape.rows, shape.length] for shape in shapes]


def _load(path: Path, arrays: str) -> dict[str, Any]:
    if arrays == "torch":
        from safetensors.torch import load_file as load_tensors

        return dict(load_tensors(str(path)))
    from safetensors.numpy import load_file

    return dict(load_file(str(path)))
