"""The user's example calls as flat tensors of one form."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supernet.capture.calls.call_signature import CallForm, Example
from supernet.capture.probe import structural_copy
from supernet.effects.reasons import one_line
from supernet.errors import OutsideCapture, Uncapturable, WrongArgument

__all__ = ["take_examples"]


def take_examples(
    model: nn.Module, calls: Sequence[Example]
) -> tuple[CallForm, list[list[Tensor]], list[str]]:
    """The form of the first call, the tensors of each call of that form, and what is left out.

    A call that the model takes but that has another form (another value of a number, an optional
    argument) is left to the original, as such requests will be; so is one whose caches are empty
    where most examples' are not, or the other way round.
    """
    form, first = CallForm.of(model.forward, calls[0])
    if not first:
        raise Uncapturable("the example holds no tensor")
    examples, notes = [first], []
    for index, call in enumerate(calls[1:], 1):
        try:
            leaves = form.leaves(call.args, call.kwargs)
        except OutsideCapture as why:
            _check_taken(model, call, index, why)
            notes.append(f"left to the original, as example_inputs[{index}] is: {why}")
        else:
            _check_like_first(leaves, first, form.leaf_names(), index)
            examples.append(leaves)
    _check_devices(first, form.leaf_names())
    return form, *_of_one_kind(examples, notes)


def _check_taken(model: nn.Module, call: Example, index: int, why: OutsideCapture) -> None:
    copied = structural_copy(model, share_buffers=False)
    try:
        with torch.no_grad():
            copied(*copy.deepcopy(call.args), **copy.deepcopy(dict(call.kwargs)))
    except Exception as error:
        raise WrongArgument(
            f"example_inputs[{index}] must be called as the first ({why}), or in another way that "
            f"the model accepts; it raised {one_line(error)}"
        ) from error


def _check_like_first(
    leaves: Sequence[Tensor], first: Sequence[Tensor], names: Sequence[str], index: int
) -> None:
    for tensor, other, name in zip(leaves, first, names, strict=True):
        if (tensor.dtype, tensor.ndim) != (other.dtype, other.ndim):
            raise WrongArgument(
                f"example_inputs[{index}]: {name} must have dtype {other.dtype} and {other.ndim} "
                f"dimensions as in the first example, got {tensor.dtype} and {tensor.ndim}"
            )
        if tensor.device != first[0].device:
            raise Uncapturable(f"{name} is on {tensor.device}, others on {first[0].device}")


def _check_devices(leaves: Sequence[Tensor], names: Sequence[str]) -> None:
    for tensor, name in zip(leaves, names, strict=True):
        if tensor.device != leaves[0].device:
            raise Uncapturable(f"{name} is on {tensor.device}, others on {leaves[0].device}")


def _of_one_kind(
    examples: Sequence[list[Tensor]], notes: list[str]
) -> tuple[list[list[Tensor]], list[str]]:
    """The most examples with the same dimensions empty: a size of 0 is another program."""
    kinds: dict[object, list[list[Tensor]]] = {}
    for index, leaves in enumerate(examples):
        if all(leaf.numel() == 0 for leaf in leaves):
            shape = tuple(leaves[0].shape)
            raise WrongArgument(
                f"example_inputs[{index}]: one tensor must not be empty, got {shape}"
            )
        empty = tuple(tuple(size == 0 for size in leaf.shape) for leaf in leaves)
        kinds.setdefault(empty, []).append(leaves)
    most = max(kinds.values(), key=len)  # the first of those equally many
    if len(kinds) > 1:
        notes = [
            *notes,
            "left to the original: calls whose tensors are empty where others' are not",
        ]
    return most, notes
