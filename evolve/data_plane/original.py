"""The user's own model: the arm that is never ejected, and the judge of every plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from evolve.data_plane.weights import StateKey, Weights
from evolve.errors import EvolveError
from evolve.workers.base import Answer
from profiler.flops import flops_per_row
from supernet.capture.calls.pytree import detached, flatten

if TYPE_CHECKING:
    from evolve.data_plane.ambience import Ambience
    from profiler.shapes import Shape
    from supernet.capture.subject import Capture

__all__ = ["Original"]

TIMING_BUDGET_MS = 400.0


class Original:
    """Calls the user's module as the user would, without gradients. Never changes it.

    `restless`: what the model's own forward changes, which is no change of the model.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        capture: Capture,
        *,
        restless: frozenset[StateKey] = frozenset(),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._weights = Weights(getattr(model, "_orig_mod", model))
        self._weights.ignore(restless)
        self._capture = capture
        self._clock = clock

    def call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], ambience: Ambience | None = None
    ) -> Any:
        """`model(*args, **kwargs)` as under `ambience`, whatever it returns or raises."""
        with torch.set_grad_enabled(self._capture.needs_gradients):
            if ambience is None:
                answer = self._model(*args, **kwargs)
            else:
                with ambience.entered():
                    answer = self._model(*args, **kwargs)
        return detached(answer) if self._capture.needs_gradients else answer

    def run(self, leaves: Sequence[torch.Tensor]) -> Answer:
        """One stacked batch of input leaves → output leaves, both in signature order."""
        if self._capture.form is None:
            raise EvolveError(f"the model must be captured to be batched: {self._capture.reason}")
        args, kwargs = self._capture.form.arguments(leaves)
        began = self._clock()
        outputs, _ = flatten(self.call(args, kwargs))
        outputs = [leaf.detach() if leaf.grad_fn is not None else leaf for leaf in outputs]
        if outputs and outputs[0].is_cuda:
            torch.cuda.synchronize(outputs[0].device)
        return Answer(outputs, (self._clock() - began) * 1e3)

    def rebuild(self, leaves: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> Any:
        """The model's own structure around the output leaves of a call with the tensors `given`.

        What the model returns as it is, a parameter or an input, is put back in its place.
        """
        handed_on = self._capture.handed_on
        if handed_on.own or handed_on.given:
            leaves = list(leaves)
            for output, name in handed_on.own:
                leaves[output] = attrgetter(name)(self._model)
            for output, leaf in handed_on.given:
                leaves[output] = given[leaf]
        return self._capture.rebuild(leaves)

    def version(self) -> tuple[object, ...]:
        """Equal as long as nobody changes the model, as far as that can be seen."""
        return self._weights.fingerprint()

    def timings(self) -> dict[Shape, float]:
        """Milliseconds per captured example, smallest first, within about half a second in all."""
        timed: dict[Shape, float] = {}
        spent_ms = 0.0
        for reference in sorted(self._capture.references, key=lambda r: r.shape.tokens):
            if spent_ms > TIMING_BUDGET_MS:
                break
            # The first run warms allocator and kernels up; the better of two more counts.
            runs = [self.run(reference.inputs).elapsed_ms for _ in range(3)]
            spent_ms += sum(runs)
            timed[reference.shape] = min(runs[1:])
        return timed

    def flops(self) -> dict[Shape, float]:
        """FLOPs of one captured row at up to three lengths; empty where they can't be counted."""
        lengths = {r.shape.length: r for r in self._capture.references if r.shape.rows == 1}
        chosen = sorted(lengths)[:: max(1, len(lengths) // 3)][:3]
        try:
            return {
                lengths[n].shape: flops_per_row(self._run_leaves, lengths[n].inputs, rows=1)
                for n in chosen
            }
        except Exception:  # a module that refuses the counter's mode is served all the same
            return {}

    def _run_leaves(self, *leaves: torch.Tensor) -> None:
        self.run(leaves)
