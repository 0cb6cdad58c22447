"""Nested values come apart and together again unchanged."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.capture.calls.pytree import flatten
from supernet.errors import OutsideCapture, Uncapturable
from tests.supernet.models import Pair, Scores

LEAVES = st.builds(lambda n: torch.full((2,), float(n)), st.integers(0, 99))
CONSTANTS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES | CONSTANTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda both: Pair(*both))
        | st.tuples(inner, inner).map(lambda both: Scores(*both))
    ),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_apart_and_together(value: Any) -> None:
    leaves, structure = flatten(value)
    assert structure.size == len(leaves)
    again, same = flatten(structure.rebuild(leaves))
    assert same == structure
    assert all(a is b for a, b in zip(again, leaves, strict=True))
    matched: list[torch.Tensor] = []
    structure.match(value, matched, "value")
    assert all(a is b for a, b in zip(matched, leaves, strict=True))


@pytest.mark.parametrize("cls", [OrderedDict, lambda pairs: defaultdict(int, pairs)])
def test_what_pytree_knows_is_kept_as_its_own_type(cls: Any) -> None:
    value = cls([("a", torch.ones(1)), ("b", 2)])
    leaves, structure = flatten(value)
    rebuilt = structure.rebuild(leaves)
    assert type(rebuilt) is type(value)
    assert rebuilt == value


def test_nan_as_a_constant_equals_itself() -> None:
    _, structure = flatten([float("nan")])
    structure.match([float("nan")], [], "value")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([torch.ones(1), object()], r"value\[1\] is of type object"),
        ({"x": iter(())}, r"value\['x'\] is of type tuple_iterator"),
        (torch.ones(2).to_sparse(), "layout torch.sparse_coo"),
    ],
)
def test_what_cannot_be_taken_apart_is_named(value: Any, reason: str) -> None:
    with pytest.raises(Uncapturable, match=reason):
        flatten(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Uncapturable, match="more than 32 levels"):
        flatten(loop)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"x": torch.ones(1)}, "must be of type list, got dict"),
        ([1, 2], r"value\[0\] must be a torch.Tensor, got int"),
        ([torch.ones(1), 3], r"value\[1\] must be 2, got 3"),
        ([torch.ones(1), 2, 2], "must have the parts of the example"),
        ([torch.ones(1), True], r"value\[1\] must be of type int, got bool"),
    ],
)
def test_another_build_is_named(value: Any, reason: str) -> None:
    _, structure = flatten([torch.ones(1), 2])
    with pytest.raises(OutsideCapture, match=reason):
        structure.match(value, [], "value")


def test_the_number_of_leaves_must_fit() -> None:
    _, structure = flatten((torch.ones(1), None))
    with pytest.raises(ValueError, match="leaves must number 1, got 2"):
        structure.rebuild([torch.ones(1), torch.ones(1)])
