"""Samples of the live answers: which are checked, and what is kept of them until they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolve.data_plane.batching import crop

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.data_plane.request_queue import Request
    from supernet.signature import Signature, TensorSpec

__all__ = ["Sample", "choose", "keep", "rate"]

FIRST = 32
EAGER, EAGER_CHECKS = 2 / 3, 700
WARY, WARY_CHECKS = 1 / 20, 2_000
FLOOR = 1 / 200
"""Two thirds of the first thousand requests: what errs on 1 % of the inputs passes all of these
checks once in a thousand times (0.99 ** 677)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One request of a batch, as it was answered.

    `inputs` is the whole batch, padded to `ran_length`; the request's rows begin at `at`, and its
    own length is `length`. `batched`: others were in the batch.
    """

    plan: str
    inputs: Sequence[Tensor]
    at: int
    rows: int
    length: int
    ran_length: int
    batched: bool
    answer: Sequence[Tensor]
    taken_s: float
    mib: float

    @property
    def padded(self) -> bool:
        return self.length < self.ran_length

    def own(self, signature: Signature) -> list[Tensor]:
        """The request's inputs as the caller gave them."""
        return self.of_batch(self.inputs, signature.inputs, self.at)

    def of_batch(
        self, leaves: Sequence[Tensor], specs: Sequence[TensorSpec], at: int
    ) -> list[Tensor]:
        """The request's part of tensors of a batch in which its rows begin at `at`."""
        return [
            crop(leaf, spec, at, self.rows, self.length)
            for leaf, spec in zip(leaves, specs, strict=True)
        ]


def rate(checked: int) -> float:
    """Share of the requests to check next, after so many checks that found nothing."""
    if checked < FIRST:
        return 1.0
    if checked < EAGER_CHECKS:
        return EAGER
    return WARY if checked < WARY_CHECKS else FLOOR


def choose(requests: Sequence[Request], share: float, rng: random.Random) -> list[int]:
    """Indices of a `share` of `requests`, rounded by chance; every second one is the most padded.

    Padding harms who is padded most, a batch also who is not: hence not all by padding.
    """
    wanted = len(requests) * share
    if (count := int(wanted + rng.random())) == 0:
        return []
    if count >= len(requests):
        return list(range(len(requests)))
    left = sorted(range(len(requests)), key=lambda i: requests[i].length)
    return [left.pop(0 if rng.random() < 0.5 else rng.randrange(len(left))) for _ in range(count)]


def keep(
    plan: str,
    requests: Sequence[Request],
    chosen: Sequence[int],
    inputs: Sequence[Tensor],
    length: int,
    answers: Sequence[Sequence[Tensor]],
    now_s: float,
) -> list[Sample]:
    """The chosen requests of a batch with copies of all that a caller may change afterwards.

    A batch of several was stacked into memory of its own, which is only referred to; a request
    that ran alone may lie in the caller's.
    """
    if len(requests) == 1:
        inputs = [leaf.detach().clone() for leaf in inputs]
    starts = [0]
    for request in requests:
        starts.append(starts[-1] + request.rows)
    shared_mib = _mib(inputs) / len(chosen)
    samples = []
    for i in chosen:
        answer = [leaf.detach().clone() for leaf in answers[i]]
        samples.append(
            Sample(
                plan, inputs, starts[i], requests[i].rows, requests[i].length, length,
                len(requests) > 1, answer, now_s, shared_mib + _mib(answer),
            )
        )  # fmt: skip
    return samples


def _mib(leaves: Sequence[Tensor]) -> float:
    return sum(leaf.nbytes for leaf in leaves) / (1 << 20)
