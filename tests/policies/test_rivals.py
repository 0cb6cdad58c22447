"""Settings of the published disciplines: names, arrays, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from policies import disciplines
from policies.params import PARAMETERS, RuleParams
from policies.rivals import BentoML, Clipper, Clockwork, DrainAware, Proteus, SlackFit

EVERY = (SlackFit(), DrainAware(), Clockwork(0), Clipper(1), Proteus(), BentoML(2))


@pytest.mark.parametrize(
    ("rival", "name", "kind", "array"),
    [
        (SlackFit(8, early_drop=True, max_rows=4), "slackfit-8-drop", 1, (-1, 4, 8, 1)),
        (SlackFit(), "slackfit-16", 1, (-1, 16, 16, 0)),
        (DrainAware(0.9), "drain-aware-0.9-drop", 2, (-1, 16, 0.9, 1)),
        (DrainAware(early_drop=False), "drain-aware-1", 2, (-1, 16, 1, 0)),
        (Clockwork(2, 8), "clockwork-p2", 3, (2, 8, 0, 0)),
        (Clipper(1, 2.0, 0.8, 8), "clipper-p1-s2-b0.8", 4, (1, 8, 2, 0.8)),
        (Proteus(), "proteus-1.05", 5, (-1, 16, 1.05, 1, 1e4)),
        (Proteus(1, 1.2, 8, 1.5, 2), "proteus-1.2-c1.5-e2-p1", 5, (1, 8, 1.2, 1.5, 2e3)),
        (BentoML(0, 4), "bentoml-p0", 6, (0, 4, 0, 0)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_name_kind_and_array(
    rival: SlackFit, name: str, kind: int, array: tuple[float, ...]
) -> None:
    assert rival.name == name
    assert rival.kind == kind
    told = rival.to_array()
    assert told.shape == (PARAMETERS,)
    assert tuple(told[: len(array)]) == array
    assert not told[len(array) :].any()


def test_kinds_are_distinct_and_the_rule_is_none_of_them() -> None:
    kinds = [RuleParams("any").kind, *(rival.kind for rival in EVERY)]
    assert kinds == list(range(7))
    assert kinds[0] == disciplines.RULE
    with pytest.raises(FrozenInstanceError):
        EVERY[0].max_rows = 2  # type: ignore[misc]


MAKERS: tuple[Callable[[int], object], ...] = (
    lambda rows: SlackFit(max_rows=rows),
    lambda rows: DrainAware(max_rows=rows),
    lambda rows: Clockwork(0, max_rows=rows),
    lambda rows: Clipper(0, max_rows=rows),
    lambda rows: Proteus(max_rows=rows),
    lambda rows: BentoML(0, max_rows=rows),
)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("rows", [0, -1, 1.5, math.inf, math.nan])
def test_a_batch_cap_is_a_whole_number(make: Callable[[int], object], rows: int) -> None:
    text = rf"^max_rows must be a whole number of at least 1, got {rows}$"
    with pytest.raises(ValueError, match=text):
        make(rows)


@pytest.mark.parametrize("make", [Clockwork, Clipper, BentoML])
@pytest.mark.parametrize("plan", [-1, 0.5, math.nan])
def test_one_plan_is_an_index(make: Callable[[float], object], plan: float) -> None:
    with pytest.raises(ValueError, match=rf"^plan must be an index, one plan .*, got {plan}$"):
        make(plan)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SlackFit(buckets=0), "buckets must be a whole number of at least 1, got 0"),
        (lambda: DrainAware(0.0), "margin must be greater than 0 and at most 1, got 0.0"),
        (lambda: DrainAware(1.1), "margin must be greater than 0 and at most 1, got 1.1"),
        (lambda: Clipper(0, 0.0), "step must be finite and greater than 0, got 0.0"),
        (lambda: Clipper(0, math.inf), "step must be finite and greater than 0, got inf"),
        (lambda: Clipper(0, 1.0, 0.0), "back_off must be greater than 0 and at most 1, got 0.0"),
        (lambda: Clipper(0, 1.0, math.nan), "back_off must be greater than 0 and at most 1, got n"),
        (lambda: Proteus(-2), "plan must be an index or -1 for any, got -2"),
        (lambda: Proteus(headroom=0.0), "headroom must be finite and greater than 0, got 0.0"),
        (lambda: Proteus(headroom=math.nan), "headroom must be finite and greater than 0, got nan"),
        (lambda: Proteus(every_s=0.0), "every_s must be finite and greater than 0, got 0.0"),
        (lambda: Proteus(caution=0.9), "caution must be finite and at least 1, got 0.9"),
        (lambda: Proteus(caution=math.inf), "caution must be finite and at least 1, got inf"),
    ],
)
def test_bad_values_are_named(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        make()
