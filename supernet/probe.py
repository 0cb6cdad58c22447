"""Run the original model as a function of flat tensors, without leaving a trace on it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supernet.calls import CallForm
from supernet.errors import Uncapturable
from supernet.structure import Structure, take_apart

__all__ = ["Probe", "agree", "one_line", "structural_copy", "tolerance"]

# Two runs of one model differ by rounding when another kernel is chosen for another batch
# size; a real dependence between rows or on padding is far above these.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def structural_copy(model: nn.Module, *, share_buffers: bool = True) -> nn.Module:
    """A copy of the module tree that holds the very same parameters (and buffers).

    torch.export swaps the parameters of the module that it traces for the time of the trace;
    on a copy, nobody who calls the original meanwhile can notice.
    """
    shared: list[Tensor] = list(model.parameters())
    if share_buffers:
        shared.extend(model.buffers())
    for module in model.modules():  # results kept as attributes: deepcopy refuses those
        shared.extend(v for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf)
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    except Exception as error:  # a lock, a file or a generator held by the model
        raise Uncapturable(f"the model cannot be copied: {one_line(error)}") from error


class Probe:
    """The original's answers to flat tensors, under ``no_grad``, random state kept as it was.

    Runs a copy whose buffers are its own, so that a model which updates them in ``forward``
    is found out before it could change the user's.
    """

    def __init__(self, model: nn.Module, form: CallForm) -> None:
        self._model = structural_copy(model, share_buffers=False)
        self._original = model
        self._form = form
        self._known: dict[tuple[int, ...], tuple[tuple[Tensor, ...], list[Tensor]]] = {}
        self.structure: Structure | None = None

    def __call__(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Flat outputs; ``Uncapturable`` if they are not built as the first answer was.

        The same tensors are answered once: several experiments ask about the user's examples.
        """
        key = tuple(id(leaf) for leaf in leaves)
        if key not in self._known:
            outputs, structure = self.answer(leaves)
            self.structure = self.structure or structure
            if structure != self.structure:
                raise Uncapturable(
                    "the structure or the constants of the result vary with the input"
                )
            self._known[key] = (tuple(leaves), outputs)  # held, so that no id is used again
        return self._known[key][1]

    def answer(self, leaves: Sequence[Tensor]) -> tuple[list[Tensor], Structure]:
        """Flat outputs and the structure that held them."""
        return self._answer([leaf.detach().clone() for leaf in leaves])

    def check_pure(self, leaves: Sequence[Tensor]) -> None:
        """``Uncapturable`` unless the same input gives the same answer and changes nothing."""
        first = self(leaves)
        before = _state(self._model)
        given = [leaf.detach().clone() for leaf in leaves]
        second, structure = self._answer(given, seed=1)
        self._check_inputs_kept(given, leaves)
        self._check_state_kept(before)
        if structure != self.structure or not agree(second, first):
            raise Uncapturable(
                "the same input gives different answers (it draws random numbers or keeps a "
                f"state){self._remedy()}"
            )

    def _answer(
        self, given: Sequence[Tensor], seed: int | None = None
    ) -> tuple[list[Tensor], Structure]:
        args, kwargs = self._form.arguments(given)
        with _quiet_random(), torch.no_grad():
            if seed is not None:
                torch.manual_seed(seed)
            outputs, structure = take_apart(self._model(*args, **kwargs), "result")
            return [output.detach().clone() for output in outputs], structure

    def _check_inputs_kept(self, given: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        for leaf, kept in zip(given, leaves, strict=True):
            if leaf.shape != kept.shape or not torch.equal(
                leaf.nan_to_num(), kept.detach().nan_to_num()
            ):
                raise Uncapturable("the model writes into its inputs")

    def _check_state_kept(self, before: dict[str, Any]) -> None:
        own = dict(self._model.named_buffers())
        for name, buffer in self._original.named_buffers():
            if not torch.equal(buffer.nan_to_num(), own[name].nan_to_num()):
                raise Uncapturable(f"the model changes its buffer {name!r}{self._remedy()}")
        for name, value in _state(self._model).items():
            if before.get(name, value) != value:
                raise Uncapturable(f"the model changes its attribute {name!r}")

    def _remedy(self) -> str:
        if any(module.training for module in self._original.modules()):
            return "; it is in training mode, call model.eval() before wrapping it"
        return ""


def tolerance(dtype: torch.dtype) -> float:
    """How far apart two runs may be by rounding, relative to the size of the numbers."""
    return _TOLERANCE.get(dtype, 1e-4)


def agree(got: Sequence[Tensor], want: Sequence[Tensor]) -> bool:
    """Whether two lists of outputs are equal but for rounding."""
    return len(got) == len(want) and all(_close(a, b) for a, b in zip(got, want, strict=True))


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception as one short line that begins with its kind."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _close(got: Tensor, want: Tensor) -> bool:
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if not (got.is_floating_point() or got.is_complex()):
        return torch.equal(got, want)
    wide = torch.complex128 if got.is_complex() else torch.float64
    a, b = got.detach().to(wide), want.detach().to(wide)
    if not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = (torch.where(t.isfinite(), t, torch.zeros_like(t)) for t in (a, b))
    return float((a - b).norm()) <= tolerance(got.dtype) * float(b.norm())


def _state(model: nn.Module) -> dict[str, Any]:
    """What a forward pass could change unseen: plain attributes and tensor versions."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            where = f"{path}.{name}" if path else name
            if isinstance(value, (bool, int, float, str)):
                state[where] = value
            elif isinstance(value, Tensor):
                state[where] = (id(value), value._version) if value.is_leaf else None
    for name, parameter in model.named_parameters():
        state[name] = parameter._version
    return state


@contextmanager
def _quiet_random() -> Iterator[None]:
    """Leave every global random generator as it was found."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
