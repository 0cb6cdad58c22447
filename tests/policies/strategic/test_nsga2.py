"""DEAP's NSGA-II, held against the definition; Python's own generator stays as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest

from policies.strategic.evaluations import nondominated
from policies.strategic.nsga2 import children, survivors
from tests.policies.strategic.spaces import LAYERS, objectives, transformer


def fronts(values: np.ndarray) -> list[set[int]]:
    """Fronts by the definition, one after another."""
    left, found = set(range(len(values))), []
    while left:
        front = {
            i for i in left
            if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any()
                       for j in left)
        }  # fmt: skip
        found.append(front)
        left -= front
    return found


@pytest.mark.parametrize("seed", range(4))
def test_survivors_come_front_by_front(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 5, (40, 3)).astype(float)  # many ties
    ranked = survivors(values, 40)
    assert sorted(ranked) == list(range(40))
    at = 0
    for front in fronts(values):
        assert set(ranked[at : at + len(front)]) == front
        at += len(front)
    assert survivors(values, 7) == ranked[:7]


def test_extremes_of_the_cut_front_survive() -> None:
    line = np.array([[i, 10.0 - i, 1.0] for i in (0, 4, 4.5, 5, 10)])
    assert set(survivors(line, 3)) >= {0, 4}


def test_nondominated_is_the_first_front_without_doubles() -> None:
    values = np.random.default_rng(0).integers(0, 4, (60, 3)).astype(float)
    kept = nondominated(values)
    assert {tuple(values[i]) for i in kept} == {tuple(values[i]) for i in fronts(values)[0]}
    assert len({tuple(values[i]) for i in kept}) == len(kept)
    assert nondominated(np.empty((0, 3))) == survivors(np.empty((0, 3)), 4) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 16])
def test_as_many_canonical_children_as_parents(count: int) -> None:
    space, rng = transformer(2), np.random.default_rng(count)
    parents = [space.sample(rng) for _ in range(count)]
    values = np.array([objectives(genome).values for genome in parents])
    bred = children(space, parents, values, rng)
    assert len(bred) == count
    assert all(space.canonical(child) == child for child in bred)


def test_the_global_generator_is_put_back_and_not_used() -> None:
    parents = list(LAYERS.members())[:16]
    values = np.array([objectives(genome).values for genome in parents])
    bred = []
    for seed in (1, 2):
        random.seed(seed)
        before = random.getstate()
        bred.append(children(LAYERS, parents, values, np.random.default_rng(5)))
        assert random.getstate() == before
    assert bred[0] == bred[1]
    assert children(LAYERS, parents, values, np.random.default_rng(6)) != bred[0]


def test_the_global_generator_is_put_back_after_an_error() -> None:
    before = random.getstate()
    with pytest.raises(ValueError, match="genome must be 4 indices"):
        children(LAYERS, [(2, 2)] * 4, np.ones((4, 3)), np.random.default_rng(0))
    assert random.getstate() == before
