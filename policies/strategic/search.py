"""The strategic search: which sub-networks to measure next. It proposes and never acts.

    ask(n) ─► seeds not measured yet ─► predictor, refitted ─► NSGA-II on predictions ─► n genomes
    tell(evaluations) ─► archive by genome, current or stale ─► front(), record()

Nothing else is kept than what was told, what was asked last and the generator's state, so that a
search that is stopped anywhere goes on from `state()` as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from policies.strategic.additive import Additive
from policies.strategic.archive import Archive
from policies.strategic.choosing import Chooser
from policies.strategic.evaluations import Evaluation
from policies.strategic.generation import Generation, Proposal
from policies.strategic.genome import Genome, Space
from policies.strategic.settings import SearchSettings

__all__ = ["StrategicSearch"]

STATE_VERSION = 1


class StrategicSearch:
    """Multi-objective search over a `Space` by NSGA-II with a predictor, as ask and tell.

    `weights`: version of the weights that scores hold for; see `move_weights`. `latency`: an
    additive table of milliseconds to predict latency by, in place of a fitted one.

    >>> from policies.strategic import Gene, Objectives
    >>> space = Space([Gene(f"{i}.ffn", ("skip", "half", "full"), "ffn") for i in range(4)])
    >>> search = StrategicSearch(space, seed=7)
    >>> for _ in range(2):
    ...     asked = search.ask(16)
    ...     record = search.tell(
    ...         Evaluation(g, Objectives(1 - sum(g) / 8, 1.0 + sum(g), 9.0), "original")
    ...         for g in asked
    ...     )
    >>> record.evaluations, len(search.front())
    (32, 9)
    """

    def __init__(
        self,
        space: Space,
        settings: SearchSettings | None = None,
        seed: int = 0,
        weights: str = "original",
        latency: Additive | None = None,
    ) -> None:
        if latency is not None and not (
            [len(effects) for effects in latency.effects] == [len(g.choices) for g in space.genes]
            and all(math.isfinite(effect) for gene in latency.effects for effect in gene)
        ):
            raise ValueError(
                "latency must hold a finite effect for every choice of the space, "
                f"got {latency.effects}"
            )
        self.space = space
        self.settings = settings or SearchSettings()
        self.seed = seed
        self.latency = latency
        self._archive = Archive(weights)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._number = 0
        self._asked: tuple[Proposal, ...] = ()
        self._told: dict[Genome, None] = {}
        self._tau: tuple[float | None, ...] = (None, None, None)

    @property
    def weights(self) -> str:
        """Version of the weights that scores must be of to count."""
        return self._archive.weights

    def ask(self, n: int) -> list[Genome]:
        """Begins the next generation: up to `n` different genomes without a score or a refusal
        under the present weights. Fewer, in the end none, once the space is used up.

        What an earlier generation asked for and nobody told may be asked for again.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        chooser = Chooser(self.space, self.settings, self.latency)
        chosen, self._tau = chooser.choose(self._archive, n, self._rng)
        self._number += 1
        self._asked, self._told = tuple(chosen), {}
        return [proposal.genome for proposal in chosen]

    def tell(self, results: Iterable[Evaluation]) -> Generation:
        """Takes in results, in as many calls as they come in, asked for or not.

        A result that is not finite is refused, and the record says so. One of other weights than
        those in force is kept as stale. Of two for one genome the later counts. ValueError for a
        genome of another space or spelling, and then none of `results` is taken in.
        """
        given = list(results)
        for one in given:
            if (canonical := self.space.canonical(one.genome)) != one.genome:
                raise ValueError(f"genome must be canonical, {canonical}, got {one.genome}")
        for one in given:
            self._archive.add(one)
            self._told[one.genome] = None
        return self.record()

    def move_weights(self, version: str) -> None:
        """From here on scores must be of these weights. All others are stale: no part of the front
        or the predictor, until they are measured anew; the old front is asked for first."""
        self._archive.weights = version

    def front(self) -> tuple[Evaluation, ...]:
        """Evaluations under the present weights that no other beats, best quality first."""
        return self._archive.front()

    def evaluations(self) -> tuple[Evaluation, ...]:
        """All scores in the order genomes were first told; stale are those of other weights."""
        return self._archive.scores()

    def record(self) -> Generation:
        """The generation as it stands now."""
        scores = [self._archive.score(genome) for genome in self._told]
        refusals = [self._archive.refusal(genome) for genome in self._told]
        current = len(self._archive.current())
        return Generation(
            self.space, self._number, self.seed, self.weights, self._asked,
            tuple(one for one in scores if one is not None),
            tuple(one for one in refusals if one is not None),
            current, len(self._archive.scores()) - current, self._archive.front(), self._tau,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """All there is to the search, as plain JSON."""
        return {
            "version": STATE_VERSION,
            "space": self.space.to_json(),
            "settings": asdict(self.settings),
            "seed": self.seed,
            "latency": None if self.latency is None else self.latency.to_json(),
            "archive": self._archive.to_json(),
            "generator": self._rng.bit_generator.state,
            "generation": self._number,
            "asked": [one.to_json() for one in self._asked],
            "told": [list(genome) for genome in self._told],
            "tau": list(self._tau),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> StrategicSearch:
        """The search whose `state()` this is; it goes on exactly as that one would have."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"state must be of version {STATE_VERSION}, got {state.get('version')!r}; "
                "begin a new search and tell it what was measured"
            )
        latency = state["latency"]
        search = cls(
            Space.from_json(state["space"]), SearchSettings(**state["settings"]), state["seed"],
            latency=None if latency is None else Additive.from_json(latency),
        )  # fmt: skip
        search._archive = Archive.from_json(state["archive"])
        search._rng.bit_generator.state = state["generator"]
        search._number = state["generation"]
        search._asked = tuple(Proposal.from_json(one) for one in state["asked"])
        search._told = {tuple(genome): None for genome in state["told"]}
        search._tau = tuple(state["tau"])
        return search
