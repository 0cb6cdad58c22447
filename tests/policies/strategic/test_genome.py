"""A space counts, spells and draws its genomes; what is none of it is said."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.strategic import Gene, Rule, Space
from policies.strategic.members import balanced, corners, neighbours, uniform_slices
from tests.policies.strategic.spaces import LAYERS, transformer

TWO = transformer(2)


def test_size_is_the_number_of_canonical_genomes() -> None:
    raw = itertools.product(range(3), repeat=6)
    spelled = {TWO.canonical(genome) for genome in raw}
    assert TWO.size == len(spelled) == (1 + 2 * 2) ** 2 * 3**2
    assert set(TWO.members()) == spelled
    assert len(list(TWO.members())) == TWO.size


@given(st.tuples(*[st.integers(0, 2)] * 6))
def test_canonical_is_smaller_and_final(genome: tuple[int, ...]) -> None:
    once = TWO.canonical(genome)
    assert TWO.canonical(once) == once
    assert all(a <= b for a, b in zip(once, genome, strict=True))
    assert TWO.encode(TWO.decode(once)) == once


def test_no_attention_and_no_heads_are_one_genome() -> None:
    assert TWO.encode({"1.attention": "none"}) == TWO.encode({"1.heads": 0}) == (2, 2, 2, 0, 0, 2)
    assert TWO.decode((2, 2, 2, 0, 0, 2))["1.heads"] == 0
    assert TWO.describe((2, 2, 1, 0, 0, 2)) == "0.ffn=0.5, 1.attention=none, 1.heads=0"
    assert TWO.describe(TWO.original) == "the original"


def test_rules_follow_each_other_whatever_their_order() -> None:
    genes = [Gene(name, (0, 1), name) for name in "abc"]
    chain = [Rule("b", 0, ("c",)), Rule("a", 0, ("b",))]
    assert Space(genes, chain).canonical((0, 1, 1)) == (0, 0, 0)
    assert Space(genes, chain).size == Space(genes, chain[::-1]).size == 4
    assert Space(genes, chain).groups == ((0, 1, 2),)


def test_json_both_ways() -> None:
    stored = json.loads(json.dumps(TWO.to_json()))
    assert Space.from_json(stored) == TWO


def test_samples_are_canonical_and_even() -> None:
    rng = np.random.default_rng(0)
    one = transformer(1)
    counts = Counter(one.sample(rng) for _ in range(15_000))
    assert set(counts) == set(one.members())
    # 1000 each in the mean, with a standard deviation of 31: drawing gene by gene and spelling
    # afterwards would give "no attention" five times as many as the others.
    assert all(800 < count < 1200 for count in counts.values())


def test_neighbours_differ_by_one_choice() -> None:
    around = neighbours(LAYERS, (2, 2, 0, 1))
    assert len(around) == len(set(around)) == 8
    assert all(sum(a != b for a, b in zip(g, (2, 2, 0, 1), strict=True)) == 1 for g in around)
    # Attention off and heads off are one neighbour, which changes two genes.
    assert (0, 0, 2, 2, 2, 2) in neighbours(TWO, TWO.original)
    assert len(neighbours(TWO, TWO.original)) == 2 * (1 + 1 + 1 + 2)


def test_corners_and_slices_are_members_once() -> None:
    for found in (corners(TWO), uniform_slices(TWO)):
        assert len(set(found)) == len(found)
        assert all(TWO.canonical(genome) == genome for genome in found)
    assert {TWO.original, TWO.smallest} <= set(corners(TWO))
    assert TWO.encode({"0.ffn": 0.5, "1.ffn": 0.5}) in uniform_slices(TWO)
    assert (1, 1, 1, 1) in uniform_slices(LAYERS)


def test_balanced_genomes_have_every_choice_equally_often() -> None:
    found = balanced(LAYERS, 12, np.random.default_rng(3))
    again = balanced(LAYERS, 12, np.random.default_rng(3))
    assert found == again
    wide = Space([Gene(str(i), tuple(range(4)), "k") for i in range(9)])
    rows = np.array(balanced(wide, 16, np.random.default_rng(0)))
    assert all(Counter(column) == {0: 4, 1: 4, 2: 4, 3: 4} for column in rows.T.tolist())
    assert balanced(LAYERS, 0, np.random.default_rng(0)) == []


def test_a_space_of_one_choice_each_has_one_member() -> None:
    one = Space([Gene("a", ("only",), "a"), Gene("b", (1,), "b")])
    assert one.size == 1
    assert one.original == one.smallest == (0, 0)
    assert corners(one) == uniform_slices(one) == list(one.members()) == [(0, 0)]
    assert neighbours(one, (0, 0)) == []


@pytest.mark.parametrize(
    ("genes", "rules", "told"),
    [
        ([], [], "genes must be at least one"),
        ([Gene("a", (1,), "a")] * 2, [], "of different names"),
        ([Gene("a", (0, 1), "a")], [Rule("b", 0, ("a",))], r"genes of the space, got \['b'\]"),
        ([Gene("a", (0, 1), "a")], [Rule("a", 2, ("a",))], r"one of \[0, 1\], got 2"),
        ([Gene("a", (0, 1), "a")], [Rule("a", 1, ("a",))], "rules must leave the original"),
        (
            [Gene(f"{i}", tuple(range(50)), "k") for i in range(3)],
            [Rule("0", 0, ("1", "2"))],
            "at most 65536 combinations, got 125000",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(
    genes: list[Gene], rules: list[Rule], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Space(genes, rules)


def test_a_gene_needs_different_choices() -> None:
    for choices in ((), (1, 1)):
        with pytest.raises(ValueError, match="choices of gene 'a' must be different"):
            Gene("a", choices, "a")


@pytest.mark.parametrize("genome", [(2, 2, 2), (2, 2, 2, 3), (2, 2, 2, -1), (2, 2, 2, 0.5)])
def test_a_genome_of_another_space_is_refused(genome: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="genome must be 4 indices"):
        LAYERS.canonical(genome)


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"choices must name genes .* got '9.layer'"):
        LAYERS.encode({"9.layer": "skip"})
    with pytest.raises(ValueError, match=r"one of .* got 'none'"):
        LAYERS.encode({"0.layer": "none"})
