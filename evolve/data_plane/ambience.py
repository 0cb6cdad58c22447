"""The ambience of a caller's thread: what it has in force that changes what a model answers.

Autocast, inference mode and the default device hold for one thread. A lane's thread has none of
them, so they travel with the request and are entered there. Modes that are objects of the user's
(`TorchFunctionMode`, `TorchDispatchMode`, a transform of `torch.func`) cannot travel: such a call
is answered on its own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._device import DeviceContext

__all__ = ["Ambience", "plain"]


def _private(path: str, default: Any) -> Callable[[], Any]:
    """A function of torch._C; torch has no public way to ask whether a mode is active."""
    found: Any = torch._C
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if callable(found) else lambda: default


_autocasts = _private("_is_any_autocast_enabled", True)
_inferring = torch.is_inference_mode_enabled
_function_modes = _private("_len_torch_function_stack", 0)
_dispatch_modes = _private("_len_torch_dispatch_stack", 0)
_transforms = _private("_functorch.maybe_current_level", None)  # levels begin at 1


@dataclass(frozen=True, slots=True)
class Ambience:
    """`autocast`: the dtype by device type where it is on. `device`: the default device where
    one was set. `foreign`: what only the caller's own thread can have, in words."""

    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    inference: bool = False
    device: torch.device | None = None
    foreign: str | None = None

    @staticmethod
    def of_caller() -> Ambience | None:
        """That of this thread; None where nothing is in force, found out in half a microsecond."""
        if not (
            _autocasts() or _inferring() or _function_modes() or _dispatch_modes() or _transforms()
        ):
            return None
        device, foreign = _modes() if _function_modes() else (None, None)
        if _dispatch_modes():
            foreign = "a TorchDispatchMode is active"
        elif _transforms():
            foreign = "a transform of torch.func is active"
        return Ambience(_autocast(), _inferring(), device, foreign)

    def obstacle(self, device: str) -> str | None:
        """Why no plan on `device` can stand for the model here; None where one can."""
        if self.foreign is not None:
            return self.foreign
        if self.autocast:
            return "autocast is on: " + ", ".join(f"{d} on {kind}" for kind, d in self.autocast)
        if self.device is not None and self.device.type != device.partition(":")[0]:
            return f"the default device is {self.device}"
        return None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This ambience on whatever thread, but for what is foreign.

        Without autocast's cache of weights: it belongs to the whole process, and weights cast
        here carry no gradient.
        """
        with ExitStack() as stack:
            if self.inference:
                stack.enter_context(torch.inference_mode())
            if self.device is not None:
                stack.enter_context(self.device)
            for kind, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            yield


def _autocast() -> tuple[tuple[str, torch.dtype], ...]:
    on = [kind for kind in _device_types() if torch.is_autocast_enabled(kind)]
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in on)


@cache
def _device_types() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def _modes() -> tuple[torch.device | None, str | None]:
    """The default device, and what else is on this thread's stack of function modes."""
    device: torch.device | None = None
    for index in range(_function_modes()):
        mode = torch._C._get_function_stack_at(index)
        if not isinstance(mode, DeviceContext):
            return device, f"{type(mode).__name__} is active"
        device = mode.device
    return device, None


@contextmanager
def plain() -> Iterator[None]:
    """Neither autocast nor inference mode, whatever the caller has: as on a thread of its own."""
    with ExitStack() as stack:
        if _inferring():
            stack.enter_context(torch.inference_mode(False))
        for kind, _ in _autocast():
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
