"""Verdicts on live answers: the model's own, or what spoilt them. Decided by asking the original.

| the original, asked about the same request | verdict |
|---|---|
| answers twice alike, as was answered | nothing is wrong |
| alone and once more alone, gives two answers | the model keeps a state or draws: no liberties |
| padded as it ran, gives another answer than alone | padding |
| in the batch it ran in, gives another answer than alone | batching |
| gives the same answer in all of them | the plan |

A sub-network's answers are not the original's: how far they agree is added up, and where that is
less than the user asks, the verdict is on the whole tier (`evolve.watch.live_agreement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from evolve.data_plane.batching import pad
from evolve.errors import EvolveError
from supernet.capture.probe import one_line
from supernet.errors import Uncapturable
from supernet.experiments.agreement import Difference, difference, noise_of
from supernet.experiments.noise import noisy_answers
from supernet.plans import ORIGINAL
from supernet.tiers import plan_tier

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.data_plane.original import Original
    from evolve.watch.live_agreement import LiveAgreements
    from evolve.watch.live_error import LiveErrors
    from evolve.watch.samples import Sample
    from supernet.plans import Plan, PlanLibrary
    from supernet.signature import Signature

__all__ = ["Cause", "Judge", "Judgement", "NotJudged"]

Cause: TypeAlias = Literal["plan", "padding", "batching", "model", "tier"]
Outcome: TypeAlias = "Sequence[Tensor] | BaseException"

_EXACT_SLACK = 10.0  # an exact plan's error is of its worst example as a whole; elements scatter
_NO_ROUNDING = 1e-2


class NotJudged(Exception):
    """The original could not be asked, for no reason that says anything about the answer."""


@dataclass(frozen=True, slots=True)
class Judgement:
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
        agreements: What those of sub-networks do.
    """

    def __init__(
        self,
        original: Original,
        signature: Signature,
        library: PlanLibrary,
        errors: LiveErrors,
        agreements: LiveAgreements,
    ) -> None:
        self._original = original
        self._signature = signature
        self._library = library
        self._errors = errors
        self._agreements = agreements

    def check(self, sample: Sample) -> Judgement | None:
        """None where the answer was right; raises `NotJudged` where that can't be said."""
        plan = self._library.get(sample.plan)
        if plan is None and sample.plan != ORIGINAL:
            raise NotJudged("its plan was dismissed")
        case = _Case(self._original, sample.own(self._signature))
        if plan is not None and plan.subnet:
            return self._of_tier(plan.subnet, sample, case)
        found = self._wrong(sample, plan, case)
        if found is None:
            return None
        if not case.steady:
            return Judgement(
                "model", f"{found}, and the model gives two answers to the same request: it draws "
                "random numbers or keeps a state",
            )  # fmt: skip
        return self._blame(sample, case, found)

    def _of_tier(self, subnet: str, sample: Sample, case: _Case) -> Judgement | None:
        truth = case.truth
        if isinstance(truth, BaseException):
            return Judgement("tier", _where_it_raises(truth))
        why = self._agreements.add(subnet, sample.answer, truth)
        return None if why is None else Judgement("tier", why)

    def _wrong(self, sample: Sample, plan: Plan | None, case: _Case) -> str | None:
        """What is wrong with the answer in the sample, in words."""
        truth = case.truth
        if isinstance(truth, BaseException):
            return _where_it_raises(truth)
        if plan is None:
            found = case.difference(sample.answer)
        elif plan.metric == "relative_l2" and plan_tier(plan) == 0:
            found = case.difference(sample.answer, plan.error or 0.0)
        else:
            return self._errors.over(sample.plan, sample.answer, truth)
        return None if found is None else f"a live answer's {found}"

    def _blame(self, sample: Sample, case: _Case, found: str) -> Judgement:
        if sample.padded and case.is_other(self._padded(sample, case)):
            return Judgement(
                "padding", f"{found}; so does the model itself, padded from {sample.length} to "
                f"{sample.ran_length}",
            )  # fmt: skip
        if sample.batched and case.is_other(self._batched(sample, case)):
            return Judgement(
                "batching", f"{found}; so does the model itself, in a batch with others"
            )
        if sample.plan != ORIGINAL:
            return Judgement("plan", f"{found}; the model itself is right for the same batch")
        cause: Cause = "batching" if sample.batched else "padding"
        return Judgement(cause, f"{found}; by elimination, since it did not happen again")

    def _padded(self, sample: Sample, case: _Case) -> Outcome:
        wide = [
            pad(leaf, spec, sample.ran_length)
            for leaf, spec in zip(case.inputs, self._signature.inputs, strict=True)
        ]
        return self._part(sample, case.ask(wide), at=0)

    def _batched(self, sample: Sample, case: _Case) -> Outcome:
        return self._part(sample, case.ask(sample.inputs), at=sample.at)

    def _part(self, sample: Sample, outcome: Outcome, at: int) -> Outcome:
        if isinstance(outcome, BaseException):
            return outcome
        try:
            return sample.of_batch(outcome, self._signature.outputs, at)
        except (RuntimeError, ValueError, IndexError) as error:  # not what the signature promises
            return error


class _Case:
    """One request, asked of the original in several ways; `truth` is its answer to it alone."""

    def __init__(self, original: Original, inputs: Sequence[Tensor]) -> None:
        self._original = original
        self.inputs = inputs
        self.truth = self.ask(inputs)

    def ask(self, inputs: Sequence[Tensor]) -> Outcome:
        try:
            return self._original.run(inputs).leaves
        except (EvolveError, Uncapturable) as error:  # a fault of our own
            raise NotJudged(type(error).__name__) from error
        except BaseException as error:  # whatever the model raises is its answer
            if _out_of_memory(error):
                raise NotJudged("out of memory") from error
            return error

    @cached_property
    def steady(self) -> bool:
        """Whether the model gives the same answer again, whose noise then tells something."""
        again = self.ask(self.inputs)
        if isinstance(again, BaseException) or isinstance(self.truth, BaseException):
            return type(again) is type(self.truth)
        return difference(again, self.truth, relative=_NO_ROUNDING) is None

    def is_other(self, outcome: Outcome) -> bool:
        """Whether `outcome` is not the truth."""
        if isinstance(outcome, BaseException) or isinstance(self.truth, BaseException):
            return type(outcome) is not type(self.truth)
        return self.difference(outcome) is not None

    def difference(self, got: Sequence[Tensor], error: float = 0.0) -> Difference | None:
        """From the truth, beyond what rounding does, of an engine whose error is known.

        What looks different is looked at again beside the model's own noise, run by run: more
        runs can only excuse more.
        """
        truth, relative = self.truth, _EXACT_SLACK * error
        assert not isinstance(truth, BaseException)
        found = difference(got, truth, relative=relative)
        if found is None or not self.steady:
            return found
        runs: list[Sequence[Tensor]] = []
        try:
            for run in noisy_answers(lambda: self._original.run(self.inputs).leaves, error):
                runs.append(run)
                found = difference(got, truth, relative=relative, noise=noise_of(runs, truth))
                if found is None:
                    return None
        except Exception:  # an operator that can't be disturbed: only what no rounding does counts
            return difference(got, truth, relative=_NO_ROUNDING)
        return found


def _where_it_raises(truth: BaseException) -> str:
    return f"an answer was given where the model alone raises {one_line(truth)}"


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
