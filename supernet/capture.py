"""Learn how a model is called and turn it into a program that other engines can run.

The user's module is never touched: everything runs on copies that share its tensors. Call
``capture`` in the thread that owns the model; tracing patches ``torch.nn.Module`` for the whole
process while it lasts (docs/decisions/0003).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from profiler.shapes import ShapeGrid
from supernet.axes import vary
from supernet.backends.eager import EagerPlan
from supernet.calls import Example
from supernet.captured import Capture, Examples, Flat
from supernet.errors import NeedsGradients, OutsideCapture, Uncapturable, WrongArgument
from supernet.examples import take_examples
from supernet.probe import Probe, agree
from supernet.reasons import explained, one_line
from supernet.signature import Signature
from supernet.study import Study, Wishes, hashes
from supernet.weights import check_weights

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
        return _captured(model, calls, max_rows, wishes)
    except WrongArgument:
        raise
    except NeedsGradients as why:
        return dataclasses.replace(_original_only(model, str(why)), needs_gradients=True)
    except Uncapturable as why:
        return _original_only(model, str(why))
    except Exception as error:  # whatever a model's code, or torch about it, may raise
        return _original_only(model, explained(error))


def _captured(
    model: nn.Module, calls: Sequence[Example], max_rows: int, wishes: Wishes | None
) -> Capture:
    check_weights(model)
    form, leaves, notes = take_examples(model, calls)
    probe = Probe(model, form)
    smallest = min(leaves, key=lambda example: sum(leaf.numel() for leaf in example))
    probe.observe(smallest)
    _answer_examples(probe, leaves)
    probe.check_pure(smallest, _others(probe, smallest))
    learned = Study(model, form, probe, leaves, max_rows, wishes).capture()
    probe.check_kept(smallest)
    _check_program(learned)
    reason = "; ".join(filter(None, (*notes, learned.reason))) or None
    return dataclasses.replace(learned, reason=reason)


def _others(probe: Probe, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    """Other contents that the model takes, of the same sizes."""
    for boldness in (1, 0):
        varied = vary(leaves, seed=1, boldness=boldness)
        try:
            probe.answer(varied)
        except Uncapturable:
            raise
        except Exception:  # e.g. floats that must add up to one
            continue
        return varied
    return leaves


def _answer_examples(probe: Probe, examples: Sequence[Sequence[Tensor]]) -> None:
    for index, leaves in enumerate(examples):
        try:
            probe(leaves)
        except Uncapturable:
            raise
        except Exception as error:
            if probe.copy_takes_with_gradients(leaves):
                raise NeedsGradients(explained(error)) from error
            if probe.original_takes(leaves):
                why = f"a copy of the model does not run: {explained(error)}"
                raise Uncapturable(why) from error
            raise WrongArgument(
                f"example_inputs[{index}] must be a call the model accepts; it raised "
                f"{one_line(error)}"
            ) from error


def _check_program(learned: Capture) -> None:
    """``Uncapturable`` unless the program still answers as the original did meanwhile.

    What the trace took for a constant (a global, a number made by NumPy) may have moved on.
    """
    if learned.program is None:
        return
    plan = EagerPlan(learned.program)
    for reference in sorted(learned.references, key=lambda r: r.shape.tokens)[:2]:
        if not agree(plan.run([leaf.clone() for leaf in reference.inputs]), reference.outputs):
            raise Uncapturable(
                "the exported program answers otherwise than the model: something outside of the "
                "tensors, or NumPy in the forward, decides the answer"
            )


def _original_only(model: nn.Module, reason: str) -> Capture:
    try:
        weights, graph_hash = hashes(model, None, None)
    except Exception:  # weights of a kind that cannot be read: no plan will be kept for them
        weights = graph_hash = type(model).__qualname__
    return Capture(
        program=None,
        reason=reason,
        signature=Signature((), (), batchable=False, paddable=False),
        grid=ShapeGrid.covering(1),
        graph_hash=graph_hash,
        weights_version=weights,
        training=model.training,
    )
