"""Run the original model as a function of flat tensors, without leaving a trace on it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from supernet.capture.calls.call_signature import CallForm
from supernet.capture.calls.pytree import Structure, flatten
from supernet.effects.call_effects import Draws, observed, owned, quiet_random, storage_key
from supernet.effects.reasons import RECOMPUTED, explained, one_line
from supernet.effects.state import changed, state_of, version
from supernet.errors import OutsideCapture, Uncapturable

_Answer: TypeAlias = tuple[list[Tensor], Structure]

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
        raise Uncapturable(f"the model cannot be copied: {explained(error)}") from error


class Probe:
    """The original's answers to flat tensors, under ``no_grad``, random state kept as it was.

    Runs a copy whose buffers are its own, so that a model which updates them in ``forward``
    is found out before it could change the user's.
    """

    def __init__(self, model: nn.Module, form: CallForm) -> None:
        self._original = model
        self._form = form
        self._known: dict[tuple[int, ...], tuple[tuple[Tensor, ...], list[Tensor]]] = {}
        self._draws = Draws()
        self.structure: Structure | None = None
        self._begin()

    def _begin(self) -> None:
        self._model = structural_copy(self._original, share_buffers=False)
        self._state = self._unused = state_of(self._model)

    @property
    def model(self) -> nn.Module:
        """The copy that answers."""
        return self._model

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

    def answer(self, leaves: Sequence[Tensor], seed: int | None = None) -> _Answer:
        """Flat outputs and the structure that held them."""
        return self._answer(self._model, _own(leaves), seed)

    def observe(self, leaves: Sequence[Tensor]) -> None:
        """``Uncapturable`` if this call writes to what outlives it, draws, or asks for the time.

        The first call of all: a write is stopped before it could reach the user's tensors.
        """
        given = _own(leaves)
        named = owned(self._original) | owned(self._model)
        named |= {key: "writes into its inputs" for key in map(storage_key, given) if key}
        try:
            with observed(named):
                self._answer(self._model, given)
        except Uncapturable as why:
            raise Uncapturable(f"{why}{self._remedy()}") from why
        except Exception:  # a model that cannot be watched, or not be called: that shows next
            self._begin()

    def copy_takes_with_gradients(self, leaves: Sequence[Tensor]) -> bool:
        """Whether a call that raised under ``no_grad`` works with gradients on."""
        self._begin()
        with torch.enable_grad():
            return self._takes(self._model, leaves)

    def original_takes(self, leaves: Sequence[Tensor]) -> bool:
        """Whether the user's own module accepts what its copy raised at."""
        with torch.no_grad():
            return self._takes(self._original, leaves)

    def _takes(self, model: nn.Module, leaves: Sequence[Tensor]) -> bool:
        args, kwargs = self._form.arguments(_own(leaves))
        try:
            with quiet_random(Draws()):
                model(*args, **kwargs)
        except Exception:
            return False
        return True

    def check_pure(self, leaves: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """``Uncapturable`` unless each input has one answer, whatever came before and is drawn.

        ``others``: other contents of the same sizes. What a first call set up for good (a table
        of positions) is no state if an unused copy, asked in another order, answers the same.
        """
        known = [(self(leaves), self.structure), self.answer(others)]
        self._state = state_of(self._model)
        for seed, (asked, answer) in enumerate(zip((leaves, others), known, strict=True)):
            given = _own(asked)
            self._check_same(self._answer(self._model, given, seed), answer)
            self._check_inputs_kept(given, asked)
            self._check_state_kept(self._state)
        if changed(self._unused, self._state) is not None:
            unused = structural_copy(self._original, share_buffers=False)
            for asked, answer in ((others, known[1]), (leaves, known[0])):
                self._check_same(self._answer(unused, _own(asked)), answer)

    def check_kept(self, leaves: Sequence[Tensor]) -> None:
        """``Uncapturable`` if any call so far drew random numbers or left a state that matters."""
        if self._draws.drawn is not None:
            raise Uncapturable(
                f"the model draws random numbers ({self._draws.drawn}){self._remedy()}"
            )
        if changed(self._state, now := state_of(self._model)) is None:
            return
        self._check_same(self.answer(leaves), (self(leaves), self.structure))
        self._check_state_kept(now)

    def _answer(
        self, model: nn.Module, given: Sequence[Tensor], seed: int | None = None
    ) -> _Answer:
        args, kwargs = self._form.arguments(given)
        with quiet_random(self._draws, seed), torch.no_grad():
            outputs, structure = flatten(model(*args, **kwargs), "result")
            self._check_arguments_kept(args, kwargs, given)
            return [output.detach().clone() for output in outputs], structure

    def _check_same(self, got: _Answer, want: tuple[list[Tensor], Structure | None]) -> None:
        if got[1] != want[1] or not agree(got[0], want[0]):
            raise Uncapturable(
                "the same input gives different answers (it draws random numbers or keeps a "
                f"state){self._remedy()}"
            )

    def _check_arguments_kept(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Sequence[Tensor]
    ) -> None:
        """A cache that the model extends for its caller would stay as it was under a plan."""
        try:
            after = self._form.leaves(args, kwargs)
        except OutsideCapture as why:
            raise Uncapturable(f"the model changes its arguments: afterwards {why}") from why
        if any(a is not b for a, b in zip(after, given, strict=True)):
            raise Uncapturable("the model replaces tensors in its arguments")

    def _check_inputs_kept(self, given: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        for leaf, kept in zip(given, leaves, strict=True):
            same = leaf.shape == kept.shape and _equal(leaf, kept.detach())
            if not same or (version(leaf) or 0) > 0:
                raise Uncapturable("the model writes into its inputs")

    def _check_state_kept(self, before: dict[str, Any]) -> None:
        own = dict(self._model.named_buffers())
        for name, buffer in self._original.named_buffers():
            if name not in own or not _equal(buffer, own[name]):
                raise Uncapturable(f"the model changes its buffer {name!r}{self._remedy()}")
        if (path := changed(before, state_of(self._model))) is not None:
            kind = "buffer" if path in own else "attribute"
            names = {name for name, _ in self._original.named_parameters()}
            if f"{path}_g" in names or f"{path}_orig" in names:
                raise Uncapturable(f"the weight {path!r} {RECOMPUTED}")
            raise Uncapturable(f"the model changes its {kind} {path!r}{self._remedy()}")

    def _remedy(self) -> str:
        if any(module.training for module in self._original.modules()):
            return "; it is in training mode, call model.eval() before wrapping it"
        return ""


def _own(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in leaves]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Equal with NaN equal to itself; True for kinds that torch cannot compare."""
    try:
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    except (NotImplementedError, RuntimeError):
        return True


def tolerance(dtype: torch.dtype) -> float:
    """How far apart two runs may be by rounding, relative to the size of the numbers."""
    return _TOLERANCE.get(dtype, 1e-4)


def agree(got: Sequence[Tensor], want: Sequence[Tensor]) -> bool:
    """Whether two lists of outputs are equal but for rounding."""
    return len(got) == len(want) and all(_close(a, b) for a, b in zip(got, want, strict=True))


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
