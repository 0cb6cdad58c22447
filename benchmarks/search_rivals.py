"""Ways to spend a budget of measurements on a truth, the strategic search and its rivals.

Each is a function (truth, budget, seed) → the genomes it measured, in order, none twice. None
sees an objective of a genome that it has not measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.search_truth import Truth
from policies.strategic import (
    Additive,
    Evaluation,
    Genome,
    SearchSettings,
    StrategicSearch,
    best_under,
)
from policies.strategic.evaluations import nondominated
from policies.strategic.members import neighbours
from policies.strategic.nsga2 import children, survivors

__all__ = ["RIVALS", "Rival", "strategic"]

Rival = Callable[[Truth, int, int], list[Genome]]
BATCH = 16
MU = 16


def strategic(truth: Truth, budget: int, seed: int) -> list[Genome]:
    """`StrategicSearch`, 16 measurements a generation."""
    search = StrategicSearch(truth.space, SearchSettings(), seed)
    while (left := budget - len(search.evaluations())) > 0:
        asked = search.ask(min(BATCH, left))
        if not asked:
            break
        search.tell(Evaluation(g, truth.objectives[g], search.weights) for g in asked)
    return [one.genome for one in search.evaluations()]


def at_random(truth: Truth, budget: int, seed: int) -> list[Genome]:
    """Random without replacement."""
    members = list(truth.objectives)
    order = np.random.default_rng(seed).permutation(len(members))
    return [members[i] for i in order[:budget]]


def mu_plus_lambda(truth: Truth, budget: int, seed: int) -> list[Genome]:
    """(16 + 16) NSGA-II from the search's own first generation, every new child measured."""
    rng = np.random.default_rng(seed)
    known = dict.fromkeys(strategic(truth, min(MU, budget), seed))
    alive = list(known)
    while len(known) < min(budget, len(truth.objectives)):
        bred = children(truth.space, alive, _values(truth, alive), rng)
        new = [g for g in dict.fromkeys(bred) if g not in known]
        new = (new or _unknown(truth, known, rng))[: budget - len(known)]
        known.update(dict.fromkeys(new))
        both = list(dict.fromkeys([*alive, *new]))
        alive = [both[row] for row in survivors(_values(truth, both), MU)]
    return list(known)


def local_search(truth: Truth, budget: int, seed: int) -> list[Genome]:
    """Pareto local search: the neighbours of a member of the front that was not visited yet, from
    the original on; a random restart where all are visited."""
    rng = np.random.default_rng(seed)
    known: dict[Genome, None] = {truth.space.original: None}
    visited: set[Genome] = set()
    while len(known) < min(budget, len(truth.objectives)):
        names = list(known)
        front = [names[row] for row in nondominated(_values(truth, names))]
        open_ones = [genome for genome in front if genome not in visited]
        if not open_ones:
            known.update(dict.fromkeys(_unknown(truth, known, rng)))
            continue
        here = open_ones[int(rng.integers(len(open_ones)))]
        visited.add(here)
        around = neighbours(truth.space, here)
        for i in rng.permutation(len(around)):
            if len(known) < budget:
                known[around[i]] = None
    return list(known)


def additive(truth: Truth, budget: int, seed: int) -> list[Genome]:
    """DP on the additive model: every change alone, then its optima for ever finer bounds."""
    del seed  # nothing is left to chance
    space = truth.space
    alone = [space.original, *neighbours(space, space.original)]
    models = [
        Additive.from_replace_one(space, {g: truth.objectives[g].values[k] for g in alone})
        for k in (0, 1)
    ]
    known = dict.fromkeys(alone[:budget])
    for steps in (8, 16, 32, 64, 128, 256):
        bounds = np.linspace(0.0, models[1].base, steps + 1)[1:].tolist()
        for genome in best_under(space, *models, bounds):
            if genome is not None and len(known) < budget:
                known[genome] = None
    return list(known)


RIVALS: dict[str, Rival] = {
    "NSGA-II + predictor": strategic,
    "random": at_random,
    "(μ + λ)": mu_plus_lambda,
    "local search": local_search,
    "DP, additive": additive,
}


def _values(truth: Truth, genomes: list[Genome]) -> np.ndarray:
    return np.array([truth.objectives[g].values for g in genomes])


def _unknown(truth: Truth, known: dict[Genome, None], rng: np.random.Generator) -> list[Genome]:
    """One genome at random that is not known."""
    left = [genome for genome in truth.objectives if genome not in known]
    return [left[int(rng.integers(len(left)))]]
