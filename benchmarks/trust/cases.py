"""What the corpus is made of: a model, the examples a user would give, requests that are not like
them, and how an answer is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from benchmarks.trust.draw import Draw

__all__ = ["KINDS", "Call", "Case", "Check", "Family"]

KINDS = ("coupled", "independent", "padded", "integer", "errors", "stateful", "nonfinite", "moving")

Check: TypeAlias = Literal["alone", "serial", "random"]
"""``alone``: each request answered as the model alone does. ``serial``: as a fresh twin of the
model does that gets the same requests in order of arrival. ``random``: built as the model's
answers are, and two answers to equal requests are never the same."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model; ``note`` says what is hostile about it."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def copy(self) -> Call:
        """The same with tensors of its own: a model may write into what it is given."""
        return Call(copy.deepcopy(self.args), copy.deepcopy(self.kwargs), self.note)

    @property
    def example(self) -> Any:
        """As `evolve.wrap` takes an example."""
        return self.kwargs if self.kwargs else self.args


@dataclass(frozen=True, slots=True)
class Case:
    """One model of the corpus and what is asked of it.

    ``move`` changes the model's weights (or what it does) after half of the requests; the
    other half must be answered by the new ones: at once where it is ``announced`` by
    `Runtime.refresh`, else after some ticks.
    """

    model: nn.Module
    examples: tuple[Call, ...]
    requests: tuple[Call, ...]
    check: Check = "alone"
    move: Callable[[nn.Module], None] | None = None
    announced: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A generator of cases of one sort: ``make(draw, requests)``."""

    name: str
    kind: str
    build: Callable[[Draw, int], Case]

    def case(self, seed: int, requests: int) -> Case:
        """The case of this seed: the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(Draw(seed), requests)
