"""A capture on disk: all that a build process needs, and nothing of the user's code.

The program lies under its graph's hash, once. What it is judged on, batches with the original's
answers, and the grid to time it on follow from the examples, and lie under a key of their own: the
same model wrapped with other examples is the same program, and another question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from profiler.shapes import Shape, ShapeGrid
from supernet.cache import ArtifactCache
from supernet.findings import OFF, Finding
from supernet.manifest import digest
from supernet.operators import custom_operators, define
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from supernet.capture.subject import Capture
    from supernet.experiments.references import Reference

__all__ = ["PROGRAM", "StoredBatch", "StoredCapture", "find", "newest", "store", "write_batches"]

PROGRAM = "program.pt2"
_RECORD = "capture.json"
_GROUPS = ("references", "usual", "strange")
_RECENT = 8  # captures of a graph whose batches are kept beside those in use
_GRAPH = 24  # of a graph's hash, which begins the key of its batches


@dataclass(frozen=True, slots=True, eq=False)
class StoredBatch:
    """One reference batch: flat inputs and the original's flat outputs, numpy or torch."""

    shape: Shape
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredCapture:
    """Signature and grid of a stored capture; programs and batches are read when asked for.

    ``folder`` is what `store` gave; ``key`` is another where a single number of the batches is.
    ``shapes``: of the batches, by group; ``masks``: the input leaves that are masks.
    ``operators``: those that a library defines, and in which module. ``batching`` and ``padding``:
    what may be done with requests, and how that is known.
    """

    folder: Path
    key: str
    graph_hash: str
    signature: Signature
    grid: ShapeGrid
    shapes: Mapping[str, tuple[Shape, ...]]
    masks: tuple[int, ...] = ()
    operators: Mapping[str, str] = field(default_factory=dict)
    batching: Finding = OFF
    padding: Finding = OFF

    @staticmethod
    def read(folder: Path) -> StoredCapture:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return StoredCapture(
            folder=folder,
            key=digest(folder)[:24],
            graph_hash=str(record["graph_hash"]),
            signature=Signature.from_json(record["signature"]),
            grid=ShapeGrid.from_json(record["grid"]),
            shapes={
                group: tuple(Shape(int(rows), int(length)) for rows, length in record[group])
                for group in _GROUPS
            },
            masks=tuple(int(leaf) for leaf in record["masks"]),
            operators={str(name): str(at) for name, at in record["operators"].items()},
            batching=Finding.from_json(record["batching"]),
            padding=Finding.from_json(record["padding"]),
        )

    def record(self) -> dict[str, Any]:
        """What is on record of it beside its batches, JSON-able."""
        record = json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
        return {name: value for name, value in record.items() if name not in _GROUPS}

    def program(self) -> ExportedProgram:
        """The exported program (imports torch, and what defines its operators)."""
        from supernet.backends.eager import load_program

        define(self.operators)
        return load_program(self.folder.parents[1] / "captures" / self.graph_hash / PROGRAM)

    def batches(self, arrays: str, group: str = "references") -> tuple[StoredBatch, ...]:
        """The reference batches as ``"numpy"`` arrays (torch is not imported) or ``"torch"``; of
        another ``group``, ``"usual"`` or ``"strange"``, those of `supernet.experiments.unseen`."""
        tensors = _load(self.folder / f"{group}.safetensors", arrays)
        return tuple(
            StoredBatch(
                shape,
                tuple(tensors[f"{n}.in.{i}"] for i in range(len(self.signature.inputs))),
                tuple(tensors[f"{n}.out.{i}"] for i in range(len(self.signature.outputs))),
            )
            for n, shape in enumerate(self.shapes[group])
        )


def store(cache: ArtifactCache, capture: Capture) -> Path:
    """Put a capture that has a program into the cache, once; the folder of its batches there.

    It stays while ``cache`` lives; afterwards for as long as few others of this graph are used.
    """
    if capture.program is None:
        raise ValueError(f"capture must have a program to be stored, got none: {capture.reason}")
    if cache.entry("captures", capture.graph_hash) is None:
        from supernet.backends.eager import save_program

        with cache.adding("captures", capture.graph_hash) as folder:
            save_program(capture.program, folder / PROGRAM)
    found = find(cache, capture)
    if found is None:
        key = (
            _key(capture) if cache.entry("references", _key(capture)) is None else _own_key(capture)
        )
        with cache.adding("references", key) as folder:
            _write(capture, capture.program, folder)
        found = cache.held("references", key)
        cache.prune("references", f"{capture.graph_hash[:_GRAPH]}-", _RECENT)
    if found is None or cache.entry("captures", capture.graph_hash) is None:
        raise OSError(f"the capture just stored in {cache.root} cannot be read back")
    return found


def find(cache: ArtifactCache, capture: Capture) -> Path | None:
    """The folder that `store` gave for this capture, None if it is not stored.

    Found by the batches' inputs: the original's answers to them are the same, but for rounding, in
    every process. Where they are not (its code changed, and the program did not), it is another.
    """
    folder = cache.held("references", _key(capture))
    if folder is not None and not _answers_agree(folder, capture):
        folder = cache.held("references", _own_key(capture))
    return folder


def newest(cache: ArtifactCache, graph_hash: str) -> Path | None:
    """The folder of the latest capture of this graph; None if there is none."""
    if cache.entry("captures", graph_hash) is None:
        return None
    kept = (cache.root / "references").glob(f"{graph_hash[:_GRAPH]}-*")
    for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        folder = cache.entry("references", path.name)
        if folder is not None:
            return folder
    return None


def _key(capture: Capture) -> str:
    """The same for the same graph, grid and inputs of the batches."""
    inputs = _digest(capture, "inputs")
    asked = f"unseen rows, smoothed {capture.graph_hash} {capture.grid.to_json()} {inputs}"
    return f"{capture.graph_hash[:_GRAPH]}-{hashlib.sha256(asked.encode()).hexdigest()[:24]}"


def _own_key(capture: Capture) -> str:
    """The same for the very same answers, too."""
    asked = f"{_key(capture)} {_digest(capture, 'outputs')}"
    return f"{capture.graph_hash[:_GRAPH]}-{hashlib.sha256(asked.encode()).hexdigest()[:24]}"


def _digest(capture: Capture, side: Literal["inputs", "outputs"]) -> str:
    """Of one side of all the batches."""
    from supernet.capture.weights import digest_tensors

    return digest_tensors(
        (f"{n}.{i}", tensor)
        for n, reference in enumerate(capture.references)
        for i, tensor in enumerate(getattr(reference, side))
    )


def _answers_agree(folder: Path, capture: Capture) -> bool:
    from supernet.capture.probe import agree

    stored = StoredCapture.read(folder).batches("torch")
    return all(
        agree([own.detach().cpu() for own in reference.outputs], batch.outputs)
        for reference, batch in zip(capture.references, stored, strict=True)
    )


def write_batches(
    folder: Path,
    record: Mapping[str, Any],
    groups: Mapping[str, Sequence[Reference | StoredBatch]],
) -> None:
    """Fill the folder of a capture's batches: these groups of them, and what else is on record."""
    from safetensors.torch import save_file

    for name, batches in groups.items():
        tensors = {}
        for n, batch in enumerate(batches):
            for i, tensor in enumerate(batch.inputs):
                tensors[f"{n}.in.{i}"] = _own(tensor)
            for i, tensor in enumerate(batch.outputs):
                tensors[f"{n}.out.{i}"] = _own(tensor)
        save_file(tensors, str(folder / f"{name}.safetensors"))
    shapes = {name: _pairs([batch.shape for batch in batches]) for name, batches in groups.items()}
    (folder / _RECORD).write_text(json.dumps({**record, **shapes}), encoding="utf-8")


def _write(capture: Capture, program: ExportedProgram, folder: Path) -> None:
    groups = {
        "references": capture.references,
        "usual": capture.unseen.usual,
        "strange": capture.unseen.strange,
    }
    record = {
        "graph_hash": capture.graph_hash,
        "signature": capture.signature.to_json(),
        "grid": capture.grid.to_json(),
        "operators": custom_operators(program),
        "batching": capture.batching.to_json(),
        "padding": capture.padding.to_json(),
        "masks": list(capture.unseen.masks),
    }
    write_batches(folder, record, groups)


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
