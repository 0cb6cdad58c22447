"""Check that the model is still what was captured: modules, tensors, hooks, plain attributes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ["Weights", "unlike"]

StateKey: TypeAlias = tuple[str, str]
"""Path of a module, and the name of something it holds; ("", "") for what holds for all."""

SAMPLED = 16

_STANDARD = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device})


class Weights:
    """Remembers how the model looked, and says what has changed since it last looked. Thread-safe.

    Noticed at once: a tensor written to, replaced, or moved; a module, hook, mode or attribute that
    is another one. PyTorch keeps no version of writes through `.data`, NumPy, shared memory or a
    fused optimizer: a few values of `SAMPLED` tensors a look are compared, so that a tensor
    written as a whole is noticed within some looks. Not noticed: such a write of single values, or
    to a GPU, and what lies inside other objects. A look takes about three microseconds a module.

    >>> model = nn.Linear(2, 2)
    >>> weights = Weights(model)
    >>> weights.moved()
    >>> with torch.no_grad():
    ...     _ = model.weight.add_(1)
    >>> weights.moved()
    'weight was written to'
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._names: dict[int, tuple[int, tuple[str, ...]]] = {}
        self._restless: frozenset[StateKey] = frozenset()
        self._last = self._look()
        self._sampled: dict[StateKey, str] = {}
        self._turn: Iterator[tuple[StateKey, torch.Tensor]] = iter(())
        self.begin()

    def begin(self) -> None:
        """Takes what the model is now for what it should be, every tensor's sample included."""
        with self._lock:
            self._last = self._look()
            self._sampled = {place: _sample(tensor) for place, tensor in _tensors(self._model)}
            self._turn = iter(())

    def moved(self) -> str | None:
        """What changed since the last call, or the first thing of it; None if nothing did."""
        with self._lock:
            try:
                before, self._last = self._last, self._look()
                if self._last == before:
                    return self._written()
            except RuntimeError:  # another thread is changing it just now: the next look sees
                return None
            self._sampled, self._turn = {}, iter(())
        changes = _changes(before, self._last)
        return next((what for place, what in changes if self._counts(place)), None)

    def changed(self) -> frozenset[StateKey]:
        """Every place that changed since the last call."""
        before, self._last = self._last, self._look()
        return frozenset(place for place, _ in _changes(before, self._last))

    def fingerprint(self) -> tuple[object, ...]:
        """Equal to another one as long as nothing that counts has changed in between."""
        kept = [
            tuple(
                [(name, mark) for name, mark in part if (look[0], name) not in self._restless]
                if isinstance(part, list)
                else part
                for part in look
            )
            for look in self._look()
        ]
        samples = {p: _sample(t) for p, t in _tensors(self._model) if p not in self._restless}
        return (kept, samples)

    def ignore(self, places: Collection[StateKey]) -> None:
        """From now on these count for nothing: the model's own forward changes them."""
        self._restless = frozenset(places)

    def _written(self) -> str | None:
        """The first of the next few tensors whose values are others than before."""
        found, due = None, list(itertools.islice(self._turn, SAMPLED))
        if len(due) < SAMPLED:
            self._turn = _tensors(self._model)  # from the beginning again
        for place, tensor in due:
            now = _sample(tensor)
            if self._sampled.setdefault(place, now) != now:
                self._sampled[place] = now
                if found is None and self._counts(place):
                    found = f"{'.'.join(filter(None, place))} was written to"
        return found

    def _counts(self, place: StateKey) -> bool:
        return place not in self._restless

    def _look(self) -> list[tuple[Any, ...]]:
        """One tuple per module in the order of a walk, equal as long as nothing changes."""
        looks: list[tuple[Any, ...]] = [_global_hooks()]
        waiting, seen = [("", self._model)], set()
        while waiting:
            path, module = waiting.pop()
            if module is None or id(module) in seen:
                continue
            seen.add(id(module))
            held = module.__dict__
            looks.append(
                (
                    path,
                    id(module),
                    type(module),
                    module.training,
                    *[tuple(held[hooks]) if held[hooks] else () for hooks in _HOOKS],
                    [(name, _mark(t)) for name, t in held["_parameters"].items()],
                    [(name, _mark(t)) for name, t in held["_buffers"].items()],
                    [(name, _value(held.get(name))) for name in self._own(module, held)],
                )
            )
            for name, child in held["_modules"].items():
                waiting.append((f"{path}.{name}" if path else name, child))
        return looks

    def _own(self, module: nn.Module, held: dict[str, Any]) -> tuple[str, ...]:
        """The names of attributes that not every module has."""
        known = self._names.get(id(module))
        if known is None or known[0] != len(held):
            known = (len(held), tuple(name for name in held if name not in _STANDARD))
            self._names[id(module)] = known
        return known[1]


def _tensors(model: nn.Module) -> Iterator[tuple[StateKey, torch.Tensor]]:
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and type(tensor) in (torch.Tensor, nn.Parameter):
                yield (path, name), tensor


def _sample(tensor: torch.Tensor) -> str:
    """Some of its values; nothing where reading them would copy it or wait for a GPU."""
    if not (tensor.is_cpu and tensor.layout is torch.strided and tensor.is_contiguous()):
        return ""
    if tensor.is_quantized:
        return ""
    step = max(1, tensor.numel() // 8)
    return repr(tensor.detach().view(-1)[::step].tolist())  # as text, NaN is equal to itself


def unlike(model: nn.Module, copy: nn.Module) -> frozenset[StateKey]:
    """Plain attributes that differ between a model and a copy of it that has run since."""
    copies = dict(copy.named_modules())
    found: set[StateKey] = set()
    for path, module in model.named_modules():
        other = vars(copies[path]) if path in copies else {}
        for name in (vars(module).keys() | other.keys()) - _STANDARD:
            mine, its = vars(module).get(name), other.get(name)
            if type(mine) is not type(its) or (type(mine) in _PLAIN and mine != its):
                found.add((path, name))
    return frozenset(found)


def _global_hooks() -> tuple[Any, ...]:
    return (
        tuple(torch_module._global_forward_hooks),
        tuple(torch_module._global_forward_pre_hooks),
    )


def _mark(tensor: torch.Tensor | None) -> Any:
    """Changes with each write that PyTorch counts, and with each other memory or form."""
    if tensor is None:
        return None
    try:
        version = 0 if tensor.is_inference() else tensor._version
        return id(tensor), version, tensor.data_ptr(), tensor.shape
    except Exception:  # one without storage; a class of its own may raise anything
        return id(tensor), type(tensor)


def _value(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value if value == value else "nan"
    return _mark(value) if isinstance(value, torch.Tensor) else id(value)


def _changes(
    before: list[tuple[Any, ...]], now: list[tuple[Any, ...]]
) -> Iterator[tuple[StateKey, str]]:
    if before[0] != now[0]:
        yield ("", ""), "a hook on all modules was added or removed"
    old = {look[0]: look for look in before[1:]}
    new = {look[0]: look for look in now[1:]}
    for path in sorted(old.keys() ^ new.keys()):
        yield (path, ""), f"module {path!r} was {'added' if path in new else 'removed'}"
    for path in old.keys() & new.keys():
        yield from _module_changes(path, old[path], new[path])


def _module_changes(
    path: str, old: tuple[Any, ...], new: tuple[Any, ...]
) -> Iterator[tuple[StateKey, str]]:
    where = f"module {path!r}" if path else "the model"
    if old[1:3] != new[1:3]:
        yield (path, ""), f"{where} is another one"
    if old[3] != new[3]:
        yield (path, "training"), f"{where} went to {'training' if new[3] else 'eval'} mode"
    if old[4:6] != new[4:6]:
        yield (path, "hooks"), f"a hook of {where} was added or removed"
    for mine, its in zip(old[6:], new[6:], strict=True):
        was, is_ = dict(mine), dict(its)
        for name in {**was, **is_}:
            if was.get(name) != is_.get(name):
                full = f"{path}.{name}" if path else name
                yield (path, name), f"{full} was {_verb(was.get(name), is_.get(name))}"


def _verb(was: Any, now: Any) -> str:
    same = isinstance(was, tuple) and isinstance(now, tuple) and was[0] == now[0]
    return "written to" if same else "replaced"
