"""Learn how a model is called and turn it into a program that other engines can run.

The user's module is never touched: everything runs on copies that share its tensors. Tracing
patches ``torch.nn.Module`` for the whole process while it lasts: call ``capture`` where nobody is
served meanwhile, in a process of its own or before the first request (docs/decisions/0021).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from profiler.shapes import ShapeGrid
from supernet.backends.eager import EagerPlan
from supernet.capture.calls.call_signature import CallForm
from supernet.capture.calls.pytree import Structure, flatten
from supernet.capture.captured import Capture, Examples, Flat
from supernet.capture.dynamic_dims import vary
from supernet.capture.probe import Probe, agree
from supernet.capture.steps import Study, Wishes, hashes
from supernet.capture.weights import check_weights
from supernet.effects.reasons import explained, one_line
from supernet.errors import NeedsGradients, OutsideCapture, Uncapturable, WrongArgument
from supernet.experiments.examples import take_examples
from supernet.experiments.references import Reference
from supernet.signature import Signature

__all__ = [
    "Capture",
    "Examples",
    "Flat",
    "OutsideCapture",
    "Subject",
    "Wishes",
    "begin",
    "capture",
    "original_only",
]


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
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    return begin(model, examples, wishes).capture(max_rows)


def begin(model: nn.Module, examples: Any, wishes: Wishes | None = None) -> Subject:
    """Check the arguments of ``capture`` and take the example calls apart; no call is made.

    Raises what ``capture`` raises for arguments that are wrong.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; "
            "wrap a function in a module whose forward calls it"
        )
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    calls = Examples.of(examples).items
    subject = Subject(model, wishes or Wishes())
    with subject.trouble_noted():
        check_weights(model)
        subject.form, subject.leaves, subject.notes = take_examples(model, calls)
    return subject


@dataclasses.dataclass(slots=True, eq=False)
class Subject:
    """A model and its example calls, on the way to a capture.

    ``obstacle`` says why there will be none. ``probe`` is there once the model was asked.
    """

    model: nn.Module
    wishes: Wishes
    form: CallForm | None = None
    leaves: list[list[Tensor]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    probe: Probe | None = None
    obstacle: str | None = None
    needs_gradients: bool = False

    @property
    def device(self) -> str:
        """The kind of device that the example tensors are on; "cpu" without any."""
        return self.leaves[0][0].device.type if self.leaves else "cpu"

    def answer(self, within_s: float = math.inf) -> None:
        """Have a copy of the model answer its own examples, the smallest one watched.

        After ``within_s`` the examples still unanswered are left to ``capture``. Raises
        ``WrongArgument`` where the model refuses one. Sets random generators back: nobody may
        draw from them meanwhile.
        """
        until_s = time.monotonic() + within_s
        with self.trouble_noted():
            if self.form is not None and self.obstacle is None:
                self.probe = Probe(self.model, self.form)
                self.probe.observe(self._smallest())
                _answer_examples(self.probe, self.leaves, until_s)

    def capture(self, max_rows: int = 16) -> Capture:
        """The experiments and the trace: everything that takes long. See ``capture``."""
        if self.probe is None:
            self.answer()
        with self.trouble_noted():
            if self.form is not None and self.probe is not None and self.obstacle is None:
                return self._captured(self.form, self.probe, max_rows)
        learned = original_only(self.model, self.obstacle or "it cannot be taken apart")
        return dataclasses.replace(learned, needs_gradients=self.needs_gradients)

    def structure(self) -> Structure:
        """How the model builds its answers; calls it, unless a copy has answered already."""
        if self.probe is not None and self.probe.structure is not None:
            return self.probe.structure
        if self.form is None:
            raise Uncapturable(self.obstacle or "the example holds no tensor")
        args, kwargs = self.form.arguments(self._smallest())
        with torch.no_grad():
            return flatten(self.model(*args, **kwargs), "result")[1]

    @contextlib.contextmanager
    def trouble_noted(self) -> Iterator[None]:
        """Whatever a model's code, or torch about it, may raise becomes the obstacle."""
        try:
            yield
        except WrongArgument:
            raise
        except Uncapturable as why:
            self.obstacle = str(why)
            self.needs_gradients = isinstance(why, NeedsGradients)
        except Exception as error:
            self.obstacle = explained(error)

    def _captured(self, form: CallForm, probe: Probe, max_rows: int) -> Capture:
        smallest = self._smallest()
        _answer_examples(probe, self.leaves)
        probe.check_pure(smallest, _others(probe, smallest))
        learned = Study(self.model, form, probe, self.leaves, max_rows, self.wishes).capture()
        probe.check_kept(smallest)
        _check_program(learned)
        reason = "; ".join(filter(None, (*self.notes, learned.reason))) or None
        return dataclasses.replace(learned, reason=reason)

    def _smallest(self) -> list[Tensor]:
        return min(self.leaves, key=lambda example: sum(leaf.numel() for leaf in example))


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


def _answer_examples(
    probe: Probe, examples: Sequence[Sequence[Tensor]], until_s: float = math.inf
) -> None:
    for index, leaves in enumerate(examples):
        if index and time.monotonic() > until_s:
            return
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

    What the trace took for a constant (a global, a number made by NumPy) may have moved on; and
    torch.export may make a constant of a number that follows a size (``scale=length ** -0.5``),
    which shows at another size only.
    """
    if learned.program is None:
        return
    plan = EagerPlan(learned.program)
    for reference in _of_each_size(learned.references):
        if not agree(plan.run([leaf.clone() for leaf in reference.inputs]), reference.outputs):
            raise Uncapturable(
                "the exported program answers otherwise than the model: something outside of the "
                "tensors, a number that follows a size, or NumPy in the forward decides the answer"
            )


def _of_each_size(references: Sequence[Reference]) -> list[Reference]:
    """The smallest of up to three lengths, and of one row and of several."""
    ordered = sorted(references, key=lambda r: r.shape.tokens)
    lengths = {r.shape.length: r for r in reversed(ordered)}
    rows = {min(r.shape.rows, 2): r for r in reversed(ordered)}
    chosen = [lengths[n] for n in sorted(lengths)[:3]] + list(rows.values())
    return list({id(reference): reference for reference in chosen}.values())


def original_only(model: nn.Module, reason: str, *, hashed: bool = True) -> Capture:
    """A capture that has the original answer everything. ``hashed`` False saves reading all the
    weights, for one that only stands in."""
    try:
        weights, graph_hash = hashes(model, None, None) if hashed else ("", "")
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
