"""The call signature of a model: which arguments carry tensors, and which are constants."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from supernet.capture.calls.pytree import TENSOR, Structure, flatten
from supernet.errors import OutsideCapture

__all__ = ["CallForm", "Example", "check_example"]

Key: TypeAlias = str | int
"""A parameter's name, or the position of an argument that has none."""

_MISSING = object()
_PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One call of the model: ``model(*args, **kwargs)``."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallForm:
    """The arguments every call must have, learned from the first example.

    An argument may be given by position or by name; one that was left out in the example may
    be given if it equals its default. ``positional`` says how many leading arguments the
    model gets by position (as the example did: hooks may look at positional arguments).
    """

    names: tuple[str, ...]
    positional: int
    slots: tuple[tuple[Key, Structure], ...]
    defaults: Mapping[str, Any]

    @staticmethod
    def of(forward: Any, example: Example) -> tuple[CallForm, list[torch.Tensor]]:
        """The form of this example and its tensors; ``Uncapturable`` if it has other things."""
        names, defaults = _parameters(forward)
        leaves: list[torch.Tensor] = []
        slots: list[tuple[Key, Structure]] = []
        for key, value in _bind(names, example.args, example.kwargs).items():
            found, structure = flatten(value, f"argument {key!r}")
            if found or not _is_default(defaults, key, value):
                slots.append((key, structure))
                leaves.extend(found)
        return CallForm(names, len(example.args), tuple(slots), defaults), leaves

    def leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The tensors of a call, in the captured order; ``OutsideCapture`` if it differs."""
        given = _bind(self.names, args, kwargs) if args else kwargs
        leaves: list[torch.Tensor] = []
        used = 0
        for key, structure in self.slots:
            value = given.get(key, _MISSING)  # type: ignore[arg-type]
            if value is _MISSING:
                value = self._left_out(key)
            else:
                used += 1
            if structure is TENSOR and type(value) in _PLAIN:
                leaves.append(value)
            else:
                structure.match(value, leaves, f"argument {key!r}")
        if used != len(given):
            self._check_rest(given)
        return leaves

    def arguments(self, leaves: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` to call the model with, these tensors in their places."""
        values: dict[Key, Any] = {}
        start = 0
        for key, structure in self.slots:
            stop = start + structure.size
            values[key] = structure.rebuild(leaves[start:stop])
            start = stop
        args: list[Any] = []
        for position in range(self.positional):
            key = self.names[position] if position < len(self.names) else position
            args.append(values.pop(key) if key in values else self.defaults[str(key)])
        return tuple(args), {str(key): value for key, value in values.items()}

    def leaf_names(self) -> tuple[str, ...]:
        """One readable name per tensor, e.g. ``"input_ids"`` or ``"state_1"``."""
        names: list[str] = []
        for key, structure in self.slots:
            stem = key if isinstance(key, str) else f"arg{key}"
            if structure.kind == "tensor":
                names.append(stem)
            else:
                names.extend(f"{stem}_{index}" for index in range(structure.size))
        return tuple(names)

    def _left_out(self, key: Key) -> Any:
        if isinstance(key, str) and key in self.defaults:
            return self.defaults[key]
        raise OutsideCapture(f"argument {key!r} must be given, as in the example")

    def _check_rest(self, given: Mapping[Any, Any]) -> None:
        known = {key for key, _ in self.slots}
        for key, value in given.items():
            if key not in known and not _is_default(self.defaults, key, value):
                raise OutsideCapture(f"argument {key!r} was not part of the example")


def _parameters(forward: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # scripted and builtin callables have no signature
        return (), {}
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in by_position)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return names, defaults


def _bind(names: tuple[str, ...], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Key, Any]:
    values: dict[Key, Any] = {}
    for position, value in enumerate(args):
        values[names[position] if position < len(names) else position] = value
    if kwargs:
        for name, value in kwargs.items():
            if name in values:
                raise OutsideCapture(f"argument {name!r} must be given once, got it twice")
            values[name] = value
    return values


def _is_default(defaults: Mapping[str, Any], key: Key, value: Any) -> bool:
    default = defaults.get(key, _MISSING) if isinstance(key, str) else _MISSING
    if default is _MISSING or type(value) is not type(default):
        return False
    try:
        return bool(value is default or value == default)
    except (TypeError, ValueError, RuntimeError):  # arrays have no single truth value
        return False


def check_example(value: Any, name: str) -> Example:
    """An ``Example`` from a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(value, Example):
        return value
    if isinstance(value, tuple):
        return Example(value, {})
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise TypeError(f"{name} must have argument names as keys, got {bad[0]!r}")
        return Example((), dict(value))
    remedy = "; write (x,) for a single tensor" if isinstance(value, torch.Tensor) else ""
    raise TypeError(
        f"{name} must be a tuple of arguments or a dict of keyword arguments, "
        f"got {type(value).__name__}{remedy}"
    )
