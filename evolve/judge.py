"""Is a live answer the model's own, and if not, what spoilt it? Decided by asking the original.

| the original, asked about the same request | verdict |
|---|---|
| answers twice alike, as was answered | nothing is wrong |
| alone and once more alone, gives two answers | the model keeps a state or draws: no liberties |
| padded as it ran, gives another answer than alone | padding |
| in the batch it ran in, gives another answer than alone | batching |
| gives the same answer in all of them | the plan |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from evolve.batching import pad
from evolve.original import ORIGINAL
from supernet.agreement import Difference, difference, noise_of
from supernet.fidelity import tier_of
from supernet.noise import noisy_answers
from supernet.probe import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.live_error import LiveErrors
    from evolve.original import Original
    from evolve.samples import Sample
    from supernet.plans import PlanLibrary
    from supernet.signature import Signature

__all__ = ["Cause", "Judge", "NotJudged", "Verdict"]

Cause: TypeAlias = Literal["plan", "padding", "batching", "model"]
Outcome: TypeAlias = "Sequence[Tensor] | BaseException"

_EXACT_SLACK = 10.0  # an exact plan's error is of its worst example as a whole; elements scatter
_NO_ROUNDING = 1e-2


class NotJudged(Exception):
    """The original could not be asked, for no reason that says anything about the answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be turned off, and why in words."""

    cause: Cause
    why: str


class Judge:
    """Compares samples with the original, off the request path.

    Args:
        original: Asked as the caller would have asked it.
        signature: Which dims are rows and lengths.
        library: Which error each plan was admitted with.
        errors: What the less exact plans' live answers add up to.
    """

    def __init__(
        self, original: Original, signature: Signature, library: PlanLibrary, errors: LiveErrors
    ) -> None:
        self._original = original
        self._signature = signature
        self._library = library
        self._errors = errors

    def check(self, sample: Sample) -> Verdict | None:
        """None where the answer was right; raises `NotJudged` where that can't be said."""
        inputs = sample.own(self._signature)
        truth = self._ask(inputs)
        found = self._spoilt(sample, truth, inputs)
        return None if found is None else self._blame(sample, truth, inputs, found)

    def _ask(self, inputs: Sequence[Tensor]) -> Outcome:
        try:
            return self._original.run(inputs).leaves
        except BaseException as error:  # whatever the model raises is its answer
            if _out_of_memory(error):
                raise NotJudged(one_line(error)) from error
            return error

    def _spoilt(self, sample: Sample, truth: Outcome, inputs: Sequence[Tensor]) -> str | None:
        if isinstance(truth, BaseException):
            return f"an answer was given where the model alone raises {one_line(truth)}"
        plan = self._library.get(sample.plan)
        if sample.plan == ORIGINAL or plan is None:
            found = self._differs(sample.answer, truth, inputs)
        elif plan.metric == "relative_l2" and tier_of(plan.error) == 0:
            found = self._differs(sample.answer, truth, inputs, plan.error or 0.0)
        else:
            return self._errors.over(sample.plan, sample.answer, truth)
        return None if found is None else f"a live answer's {found}"

    def _differs(
        self,
        got: Sequence[Tensor],
        truth: Sequence[Tensor],
        inputs: Sequence[Tensor],
        error: float = 0.0,
    ) -> Difference | None:
        """Looked at again beside the model's own noise before it counts."""
        relative = _EXACT_SLACK * error
        if difference(got, truth, relative=relative) is None:
            return None
        try:
            runs = noisy_answers(lambda: self._original.run(inputs).leaves, at_least=error)
        except Exception:  # an operator that can't be disturbed: only what no rounding does counts
            return difference(got, truth, relative=_NO_ROUNDING)
        return difference(got, truth, relative=relative, noise=noise_of(runs, truth))

    def _blame(
        self, sample: Sample, truth: Outcome, inputs: Sequence[Tensor], found: str
    ) -> Verdict:
        def other(outcome: Outcome) -> bool:
            return self._is_other(outcome, truth, inputs)

        if other(self._ask(inputs)):
            return Verdict(
                "model", f"{found}, and the model gives two answers to the same request: it draws "
                "random numbers or keeps a state",
            )  # fmt: skip
        spoils = [name for name, outcome in self._experiments(sample, inputs) if other(outcome())]
        if spoils == ["padding"] or spoils == ["padding", "batching"]:
            return Verdict(
                "padding", f"{found}; so does the model itself, padded from {sample.length} to "
                f"{sample.ran_length}",
            )  # fmt: skip
        if spoils:
            others = "in a batch with others"
            return Verdict("batching", f"{found}; so does the model itself, {others}")
        if sample.plan != ORIGINAL:
            return Verdict("plan", f"{found}; the model itself is right for the same batch")
        cause: Cause = "batching" if sample.batched else "padding"
        return Verdict(cause, f"{found}; by elimination, since it did not happen again")

    def _experiments(
        self, sample: Sample, inputs: Sequence[Tensor]
    ) -> list[tuple[str, Callable[[], Outcome]]]:
        specs = self._signature.inputs

        def padded() -> Outcome:
            wide = [
                pad(leaf, spec, sample.ran_length) for leaf, spec in zip(inputs, specs, strict=True)
            ]
            return self._part(sample, self._ask(wide), at=0)

        def batched() -> Outcome:
            return self._part(sample, self._ask(sample.inputs), at=sample.at)

        experiments: list[tuple[str, Callable[[], Outcome]]] = []
        if sample.padded:
            experiments.append(("padding", padded))
        if sample.batched:
            experiments.append(("batching", batched))
        return experiments

    def _part(self, sample: Sample, outcome: Outcome, at: int) -> Outcome:
        if isinstance(outcome, BaseException):
            return outcome
        try:
            return sample.of_batch(outcome, self._signature.outputs, at)
        except (RuntimeError, ValueError, IndexError) as error:  # not what the signature promises
            return error

    def _is_other(self, outcome: Outcome, truth: Outcome, inputs: Sequence[Tensor]) -> bool:
        if isinstance(outcome, BaseException) or isinstance(truth, BaseException):
            return type(outcome) is not type(truth)
        return self._differs(outcome, truth, inputs) is not None


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
