"""MODEL of a command line: `package.module:NAME` or `path/to/file.py:NAME`, called for a model.

The convention of uvicorn and gunicorn. NAME is a callable without arguments that returns
``(model, inputs)``: a `torch.nn.Module`, and a sequence of calls' argument tuples to learn from.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.evolution.inputs import Inputs
    from profiler.shapes import ShapeGrid
    from supernet.capture.captured import Capture
    from supernet.elastic.supernet import Supernet

__all__ = ["HELP", "Subject", "load"]

HELP = "package.module:NAME or path/to/file.py:NAME, a callable that returns (model, inputs)."
_MOST_EXAMPLES = 8
_HINT = "MODEL"


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The supernet of a model, the grid of its shapes, flat `inputs` that fit it, and which did
    not."""

    graph_hash: str
    net: Supernet
    grid: ShapeGrid
    inputs: Sequence[Sequence[Tensor]]
    notes: tuple[str, ...]

    def prepared(self) -> Inputs:
        """Its inputs, to learn from and to judge by; `JobRefused` where they are too few."""
        from evolve.evolution.inputs import prepared
        from supernet.jobs.errors import JobRefused

        try:
            return prepared(self.net.signature, self.inputs)
        except JobRefused as error:
            raise JobRefused("; ".join((str(error), *self.notes))) from error


def load(given: str) -> Subject:
    """The model that MODEL names, captured with its inputs.

    Wrong usage where there is no such file or name; a `ValueError` says what is wrong with what it
    returns, or why the model cannot be captured.
    """
    from supernet.capture.subject import capture
    from supernet.elastic.supernet import Supernet

    model, calls = _checked(given, _named(given))
    learned = capture(model.eval(), [calls[i] for i in _different(calls)])
    if learned.program is None:
        raise ValueError(f"{given}: the model cannot be captured: {learned.reason}")
    inputs, notes = _flat(learned, calls)
    return Subject(learned.graph_hash, Supernet.of(learned), learned.grid, inputs, notes)


def _named(given: str) -> Callable[[], Any]:
    place, colon, name = given.rpartition(":")
    if not (place and colon and name):
        raise typer.BadParameter(
            f"must be package.module:NAME or path/to/file.py:NAME, got {given!r}", param_hint=_HINT
        )
    module = _imported(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
            raise typer.BadParameter(
                f"{place} has no {name!r}; callable there: {known or 'nothing'}", param_hint=_HINT
            )
        found = getattr(found, part)
    if not callable(found):
        raise typer.BadParameter(
            f"{given} must be callable without arguments, got {type(found).__name__}",
            param_hint=_HINT,
        )
    made: Callable[[], Any] = found
    return made


def _imported(place: str) -> ModuleType:
    if place.endswith(".py") or os.sep in place:
        path = Path(place).expanduser()
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {place}", param_hint=_HINT)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise typer.BadParameter(f"{place} must be a Python file", param_hint=_HINT)
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        sys.path.insert(0, str(path.parent.resolve()))  # what lies beside it
        _run(place, partial(spec.loader.exec_module, module))
        return module
    sys.path.insert(0, os.getcwd())
    try:
        found: ModuleType = _run(place, partial(importlib.import_module, place))
        return found
    except ModuleNotFoundError as error:
        if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
            raise
        raise typer.BadParameter(f"there is no module {place}", param_hint=_HINT) from error


def _run(place: str, work: Callable[[], Any]) -> Any:
    """What the user's code gives; a `ValueError` in one line where it raises."""
    try:
        return work()
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{place} raised {type(error).__name__}: {error}") from error


def _checked(given: str, make: Callable[[], Any]) -> tuple[Any, list[tuple[Any, ...]]]:
    from torch import nn

    made = _run(given, make)
    wanted = f"{given} must return (model, inputs), a torch.nn.Module and a sequence of tuples"
    if not isinstance(made, tuple) or len(made) != 2:
        raise ValueError(f"{wanted}, got {_kind(made)}")
    model, inputs = made
    if not isinstance(model, nn.Module):
        raise ValueError(f"{wanted}, got {_kind(model)} for the model")
    if not isinstance(inputs, Sequence) or isinstance(inputs, (str, bytes)):
        raise ValueError(f"{wanted}, got {_kind(inputs)} for the inputs")
    if not inputs:
        raise ValueError(f"{wanted}, got no inputs; the first is the example")
    for number, call in enumerate(inputs):
        if not isinstance(call, tuple):
            raise ValueError(f"{wanted}, got {_kind(call)} for inputs[{number}]")
    return model, list(inputs)


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple) else ""
    return f"{type(value).__name__}{size}"


def _different(calls: Sequence[tuple[Any, ...]]) -> list[int]:
    """The first call, and some of other shapes: what differs among them may differ."""
    shapes = [tuple(tuple(getattr(leaf, "shape", ())) for leaf in call) for call in calls]
    first = {shape: i for i, shape in reversed(list(enumerate(shapes)))}
    ordered = sorted(first, key=lambda shape: (first[shape] != 0, str(shape)))
    others = sorted(ordered[1:])
    kept = [others[round(i * (len(others) - 1) / (_MOST_EXAMPLES - 2))]
            for i in range(_MOST_EXAMPLES - 1)] if others else []  # fmt: skip
    return [0, *dict.fromkeys(first[shape] for shape in kept)]


def _flat(
    learned: Capture, calls: Sequence[tuple[Any, ...]]
) -> tuple[list[list[Tensor]], tuple[str, ...]]:
    """The tensors of each call that fits what was captured, and how many do not."""
    from supernet.errors import OutsideCapture

    found: list[list[Tensor]] = []
    misfits: list[str] = []
    for call in calls:
        try:
            leaves = learned.flatten(call, {}).leaves
            learned.check(leaves)
        except OutsideCapture as error:
            misfits.append(str(error))
        else:
            found.append([leaf.detach() for leaf in leaves])
    if not misfits:
        return found, ()
    why = f"{len(misfits)} of {len(calls)} inputs do not fit the example: {misfits[0]}"
    return found, (why[:300],)
