"""The state that a model holds between two calls, so that a change of it can be seen."""

from __future__ import annotations

import functools
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["changed", "state_of", "version"]

# A vocabulary of 50,000 words is data, not state: longer containers count by their length, and
# a walk ends after so many tokens (20 ms).
_MOST_ITEMS = 2000
_MOST_TOKENS = 20_000
_DEEPEST = 6
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_SETS = (set, frozenset)
_CONTAINERS = (list, tuple, deque, Mapping, *_SETS)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_SHARED = (*_PLAIN, *_CONTAINERS, *_GENERATORS, Tensor, np.ndarray)
# Their insides change without a meaning for the model: compiled code, locks, log records.
_FOREIGN = frozenset({"torch", "logging", "threading", "_thread", "concurrent", "weakref", "re"})


def state_of(model: nn.Module) -> dict[str, Any]:
    """Tokens by path that differ once an attribute, a tensor or an object's inside changed.

    Looks into modules, containers, objects, random generators, the variables that functions close
    over, class variables, and the globals that the model's methods name.
    """
    tokens: dict[str, Any] = {}
    for path, token in _Walk().model(model):
        tokens[path] = token
        if len(tokens) >= _MOST_TOKENS:
            break
    return tokens


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The first path whose token differs, or None."""
    for path, token in after.items():
        if path not in before or not _same(before[path], token):
            return path
    return next((path for path in before if path not in after), None)


def version(tensor: Tensor) -> int | None:
    """How often it was written to; None where torch does not count.

    (Tensors made in inference mode, and parameters that are not initialised yet.)
    """
    return None if is_lazy(tensor) or tensor.is_inference() else tensor._version


class _Held:
    """A thing by identity. Held, so that nothing new can get its id."""

    __slots__ = ("stamp", "thing")

    def __init__(self, thing: Any, stamp: Any = None) -> None:
        self.thing, self.stamp = thing, stamp


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, _Held) and isinstance(b, _Held):
        return a.thing is b.thing and bool(a.stamp == b.stamp)
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


class _Walk:
    """One walk over a model. Each object is entered once, so loops end."""

    def __init__(self) -> None:
        self._entered: set[int] = set()

    def model(self, model: nn.Module) -> Iterator[tuple[str, Any]]:
        modules = dict(model.named_modules())
        self._entered.update(map(id, modules.values()))
        for path, module in modules.items():
            yield from self._fields(vars(module), path, 0)
        for cls in dict.fromkeys(base for m in modules.values() for base in type(m).__mro__):
            if not _foreign(cls):
                yield from self._class(cls)

    def _fields(
        self, fields: Mapping[str, Any], path: str, depth: int
    ) -> Iterator[tuple[str, Any]]:
        for name, value in fields.items():
            if name in ("_parameters", "_buffers"):
                for key, tensor in value.items():
                    yield _join(path, key), _token(tensor)
            elif name != "_modules":
                yield from self._any(value, _join(path, name), depth)

    def _class(self, cls: type) -> Iterator[tuple[str, Any]]:
        """Class variables, and globals named by methods: state that all copies share."""
        for name, value in list(vars(cls).items()):
            if isinstance(value, types.FunctionType):
                yield from self._function(value, f"{cls.__name__}.{name}", 0)
            elif isinstance(value, _SHARED) and not name.startswith("__"):
                yield from self._any(value, f"{cls.__name__}.{name}", 0)

    def _function(
        self, function: types.FunctionType, path: str, depth: int
    ) -> Iterator[tuple[str, Any]]:
        code, shared = function.__code__, function.__globals__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield from self._any(cell.cell_contents, f"{path}.{name}", depth + 1)
            except ValueError:  # not filled yet
                continue
        for name in code.co_names:
            value = shared.get(name)
            helper = isinstance(value, types.FunctionType) and value.__globals__ is shared
            if value is not None and (helper or isinstance(value, _SHARED)):
                yield from self._any(value, f"{function.__module__}.{name}", depth + 1)

    def _any(self, value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        yield path, _token(value)
        if isinstance(value, (*_PLAIN, *_GENERATORS, Tensor, np.ndarray)):
            return
        if id(value) not in self._entered and depth <= _DEEPEST:
            self._entered.add(id(value))
            yield from self._inside(value, path, depth)

    def _inside(self, value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        if isinstance(value, _CONTAINERS):
            if len(value) <= _MOST_ITEMS and not isinstance(value, _SETS):
                keyed = value.items() if isinstance(value, Mapping) else enumerate(value)
                for key, item in list(keyed):
                    yield from self._any(item, f"{path}[{key!r}]", depth + 1)
        elif isinstance(value, types.FunctionType):
            if not _foreign(value):
                yield from self._function(value, path, depth)
        elif isinstance(value, types.MethodType):
            yield from self._any(value.__func__, path, depth)
            yield from self._any(value.__self__, f"{path}.self", depth)
        elif isinstance(value, functools.partial):
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
            yield from self._fields(parts, path, depth + 1)
        elif isinstance(value, nn.Module):  # kept in a list, say: not among the submodules
            yield from self._fields(vars(value), path, depth + 1)
            yield from self._any(list(value.children()), f"{path}.children", depth + 1)
        elif not isinstance(value, (type, types.ModuleType)) and not _foreign(type(value)):
            yield from self._fields(_attributes(value), path, depth + 1)


def _token(value: Any) -> Any:
    """What differs once this thing changed, the things in it left aside.

    A tensor counts by identity: whether one that took its place is read later cannot be seen.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return _Held(value, version(value))
    if isinstance(value, np.ndarray):
        return _Held(type(value), None if value.dtype == object else hash(value.tobytes()))
    if isinstance(value, _GENERATORS):
        return _Held(type(value), repr(_drawn(value)))
    if isinstance(value, _SETS):
        return _Held(type(value), frozenset(value))
    if isinstance(value, _CONTAINERS):
        return _Held(type(value), len(value))
    held = hasattr(value, "__dict__") or hasattr(type(value), "__slots__")
    return _Held(type(value) if held else value)


def _drawn(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return [np.asarray(part).tolist() for part in generator.get_state()]


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _foreign(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in _FOREIGN


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
