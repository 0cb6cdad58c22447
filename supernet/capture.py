"""Learn how a model is called and turn it into a program that other engines can run.

The user's module is never touched: everything runs on copies that share its tensors. Call
``capture`` in the thread that owns the model; tracing patches ``torch.nn.Module`` for the whole
process while it lasts (docs/decisions/0003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from profiler.shapes import ShapeGrid
from supernet.calls import CallForm, Example
from supernet.captured import Capture, Examples, Flat
from supernet.errors import OutsideCapture, Uncapturable
from supernet.probe import Probe, one_line
from supernet.signature import Signature
from supernet.study import Study, Wishes, hashes

__all__ = ["Capture", "Examples", "Flat", "OutsideCapture", "Wishes", "capture"]


def capture(
    model: nn.Module, examples: Any, *, max_rows: int = 16, wishes: Wishes | None = None
) -> Capture:
    """Export ``model`` with the dims that the examples and experiments show to be free.

    ``examples`` is anything ``Examples.of`` takes; ``max_rows`` the most rows in one batch (more
    if an example has more), ``wishes`` what is forbidden or demanded. A model that cannot be
    captured is no error: ``program`` is None and ``reason`` says why. Examples that contradict
    each other, or that the model itself refuses, are a ``ValueError``.

    >>> import torch
    >>> learned = capture(torch.nn.Linear(4, 2).eval(), (torch.zeros(1, 4),))
    >>> learned.signature.inputs[0].dims, learned.signature.batchable
    (('rows', 4), True)
    >>> learned.flatten((torch.zeros(3, 4),), {}).rows
    3
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; "
            "wrap a function in a module whose forward calls it"
        )
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    calls = Examples.of(examples).items
    try:
        form, leaves = _take_apart(model, calls)
    except Uncapturable as why:
        return _original_only(model, str(why))
    try:
        probe = Probe(model, form)
        _answer_examples(probe, leaves)
        probe.check_pure(leaves[0])
        return Study(model, form, probe, leaves, max_rows, wishes).capture()
    except Uncapturable as why:
        return _original_only(model, str(why))


def _take_apart(model: nn.Module, calls: Sequence[Example]) -> tuple[CallForm, list[list[Tensor]]]:
    form, first = CallForm.of(model.forward, calls[0])
    if not first:
        raise Uncapturable("the example holds no tensor")
    leaves = [first]
    for index, call in enumerate(calls[1:], 1):
        try:
            leaves.append(form.leaves(call.args, call.kwargs))
        except OutsideCapture as why:
            raise ValueError(f"example_inputs[{index}] must be called as the first: {why}") from why
    for index, example in enumerate(leaves):
        for tensor, other, name in zip(example, first, form.leaf_names(), strict=True):
            where = f"example_inputs[{index}]: {name}"
            if tensor.numel() == 0:
                raise ValueError(f"{where} must not be empty, got shape {tuple(tensor.shape)}")
            if (tensor.dtype, tensor.ndim) != (other.dtype, other.ndim):
                raise ValueError(
                    f"{where} must have dtype {other.dtype} and {other.ndim} dimensions as in "
                    f"the first example, got {tensor.dtype} and {tensor.ndim}"
                )
            if tensor.device != first[0].device:
                raise Uncapturable(f"{name} is on {tensor.device}, others on {first[0].device}")
    return form, leaves


def _answer_examples(probe: Probe, examples: Sequence[Sequence[Tensor]]) -> None:
    for index, leaves in enumerate(examples):
        try:
            probe(leaves)
        except Uncapturable:
            raise
        except Exception as error:
            raise ValueError(
                f"example_inputs[{index}] must be a call the model accepts; it raised "
                f"{one_line(error)}"
            ) from error


def _original_only(model: nn.Module, reason: str) -> Capture:
    weights, graph_hash = hashes(model, None, None)
    return Capture(
        program=None,
        reason=reason,
        signature=Signature((), (), batchable=False, paddable=False),
        grid=ShapeGrid.covering(1),
        graph_hash=graph_hash,
        weights_version=weights,
        training=model.training,
    )
