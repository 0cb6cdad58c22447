"""A capture on its way from the process that made it to the one that serves.

Only what must travel: the parent has the model and the calls, so the form of a call and of a
result, which may hold the user's classes, are computed there. The program stays in the artifact
cache, where builds read it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from supernet.capture.captured import Capture
from supernet.capture.subject import Subject
from supernet.experiments.references import Reference

__all__ = ["read_capture", "write_capture"]

_RECORD, _TENSORS = "capture.json", "references.safetensors"
_STAYS = ("program", "form", "result", "references", "unseen")
_OURS = ("supernet.", "profiler.")


def write_capture(capture: Capture, folder: Path) -> None:
    """All of it but the program and what the reader computes itself."""
    tensors: dict[str, Any] = {}
    for n, reference in enumerate(capture.references):
        for side, given in (("in", reference.inputs), ("out", reference.outputs)):
            for i, tensor in enumerate(given):
                tensors[f"{n}.{side}.{i}"] = tensor.detach().contiguous().clone()
    save_file(tensors, str(folder / _TENSORS))
    names = [f.name for f in dataclasses.fields(capture) if f.init and f.name not in _STAYS]
    record = {
        "capture": {name: to_plain(getattr(capture, name)) for name in names},
        "shapes": to_plain(tuple(reference.shape for reference in capture.references)),
        "answered": capture.form is not None,
    }
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def read_capture(folder: Path, subject: Subject) -> Capture:
    """The capture of `subject` that another process wrote, with no program in it."""
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    tensors = load_file(str(folder / _TENSORS))
    shapes = from_plain(record["shapes"])

    def batch(n: int, side: str) -> tuple[Any, ...]:
        found = [name for name in tensors if name.startswith(f"{n}.{side}.")]
        return tuple(tensors[f"{n}.{side}.{i}"] for i in range(len(found)))

    return Capture(
        program=None,
        references=tuple(
            Reference(shape, batch(n, "in"), batch(n, "out")) for n, shape in enumerate(shapes)
        ),
        form=subject.form if record["answered"] else None,
        result=subject.structure() if record["answered"] else None,
        **{name: from_plain(value) for name, value in record["capture"].items()},
    )


def to_plain(value: Any) -> Any:
    """`value` as JSON can say it: plain values, tuples, and frozen dataclasses of ours in them."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return {"tuple": [to_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if isinstance(value, frozenset):
        return {"frozenset": sorted((to_plain(item) for item in value), key=repr)}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith(_OURS):
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        return {
            "class": f"{type(value).__module__}:{type(value).__qualname__}",
            "fields": {name: to_plain(getattr(value, name)) for name in fields},
        }
    raise TypeError(f"a capture must hold plain values and our own dataclasses, got {value!r}")


def from_plain(value: Any) -> Any:
    """The value that `to_plain` was given."""
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(from_plain(item) for item in value["tuple"])
    if "dict" in value:
        return {from_plain(key): from_plain(item) for key, item in value["dict"]}
    if "frozenset" in value:
        return frozenset(from_plain(item) for item in value["frozenset"])
    module, _, name = value["class"].partition(":")
    if not module.startswith(_OURS):
        raise ValueError(f"class must be one of ours, got {value['class']!r}")
    made = getattr(importlib.import_module(module), name)
    return made(**{key: from_plain(item) for key, item in value["fields"].items()})
