"""Side effects of one call of a model: writes, random draws, looks at the clock."""

from __future__ import annotations

import datetime
import gc
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from supernet.errors import Uncapturable

__all__ = ["Draws", "draws", "observed", "owned", "quiet_random", "storage_key", "written"]

_MOMENTS = frozenset(
    {
        time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter,
        time.perf_counter_ns, time.process_time, datetime.datetime.now, datetime.datetime.utcnow,
        datetime.datetime.today, datetime.date.today, os.urandom,
    }
)  # fmt: skip
# These carry out what another asked for,
_MESSENGERS = frozenset({"random", "secrets", "uuid", "datetime"})
# and these ask for the time or draw on their own account, not for the answer.
_BYSTANDERS = frozenset(
    {"logging", "torch", "warnings", "importlib", "tempfile", "threading", "supernet"}
)


@contextmanager
def observed(named: Mapping[int, str]) -> Iterator[None]:
    """Raises ``Uncapturable`` in the call inside that has an effect, before a tensor is written.

    ``named``: what to call each tensor that must stay as it is, by ``storage_key``. Sees what this
    thread runs, through views and ``.data`` too.
    """
    moments: list[str] = []
    watch = _Watch(named)
    before = sys.getprofile()
    # Compiled parts run as they are written: torch.compile cannot trace below a watch, and would
    # remember that it failed.
    with torch.compiler.set_stance("force_eager"), _no_collection(), watch:
        sys.setprofile(_profile(moments))
        try:
            yield
        finally:
            sys.setprofile(before)
    if watch.found is not None:  # the model caught what was raised in it
        raise Uncapturable(watch.found)
    if moments:
        raise Uncapturable(
            f"the model's answer may change from call to call: it calls {moments[0]}"
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Callbacks of the garbage collector would look like the model's own doing."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def owned(model: nn.Module) -> dict[int, str]:
    """Parameters and buffers by storage, as ``observed`` wants them."""
    found = {}
    for kind, tensors in (
        ("buffer", model.named_buffers()),
        ("parameter", model.named_parameters()),
    ):
        for name, tensor in tensors:
            if (key := storage_key(tensor)) is not None:
                found[key] = f"changes its {kind} {name!r}"
    return found


def storage_key(tensor: Tensor) -> int | None:
    """The same for all views of one memory; None where there is none (sparse, say)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, AttributeError):
        return None


class _Watch(TorchDispatchMode):
    """Looks at every operator before it runs."""

    supports_higher_order_operators = True

    def __init__(self, named: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._named = named
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # a branch or a loop: of graphs, not seen
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            for tensor in written(func, args, kwargs):
                what = self._named.get(storage_key(tensor))  # type: ignore[arg-type]
                if what is not None:
                    self._effect(f"the model {what}")
        if draws(func, args, kwargs):
            self._effect(f"the model draws random numbers ({func})")
        return func(*args, **kwargs)

    def _effect(self, what: str) -> None:
        self.found = self.found or what
        raise Uncapturable(what)


# They leave the numbers alone: `torch.tensor` in a forward is traced as a constant and a `detach_`
# of a copy that shares its traced memory.
_INERT = (torch.ops.aten.detach_.default, torch.ops.aten.requires_grad_.default)


def written(target: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments that an operator writes to, by its schema."""
    if target in _INERT:
        return
    given = dict(zip((a.name for a in target._schema.arguments), args, strict=False)) | dict(kwargs)
    for argument in target._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = given.get(argument.name)
            yield from (
                value if isinstance(value, (list, tuple)) else () if value is None else (value,)
            )


def draws(target: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator draws random numbers with these arguments (dropout at 0 does not)."""
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = {a.name: a.default_value for a in target._schema.arguments}
    given |= dict(zip(given, args, strict=False)) | dict(kwargs)
    inert = any(given.get(name) is False for name in ("train", "training"))
    return not (inert or any(given.get(name) == 0 for name in ("p", "dropout_p", "dropout")))


def _profile(moments: list[str]) -> Any:
    def look(frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or moments:
            return
        drawn = isinstance(getattr(called, "__self__", None), random.Random)
        if not drawn and not (callable(called) and called in _MOMENTS):
            return
        if _asking(frame) not in _BYSTANDERS:
            owner = getattr(called, "__module__", None) or type(called.__self__).__module__
            moments.append(f"{owner}.{called.__name__}")

    return look


def _asking(frame: FrameType | None) -> str:
    """The package whose code asked; ``importlib`` for all that a first import does."""
    asking = ""
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == "importlib":
            return package
        if not asking and package not in _MESSENGERS:
            asking = package
        frame = frame.f_back
    return asking


class Draws:
    """Which global random generators were used, so far."""

    def __init__(self) -> None:
        self.drawn: str | None = None


@contextmanager
def quiet_random(used: Draws, seed: int | None = None) -> Iterator[None]:
    """Leaves every global random generator as it was found, and notes which was used.

    With a ``seed`` all of them begin there: what is drawn then differs from another seed's.
    """
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
            begun = _generators()
            yield
            for name, state in _generators().items():
                if used.drawn is None and state != begun[name]:
                    used.drawn = name
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _generators() -> dict[str, Any]:
    numbers = np.random.get_state(legacy=True)
    return {
        "Python's random": random.getstate(),
        "numpy.random": tuple(np.asarray(part).tobytes() for part in numbers),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
