"""The additive model and its optima, held against trying every genome."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from policies.strategic import Additive, Genome, Space, additive, best_under
from policies.strategic.members import neighbours
from tests.policies.strategic.spaces import LAYERS, transformer


def random_model(space: Space, rng: np.random.Generator, sign: float) -> Additive:
    effects = [
        (*(sign * rng.random(most)).tolist(), 0.0) if most else (0.0,) for most in space.original
    ]
    return Additive(10.0, tuple(effects))


@pytest.mark.parametrize("space", [LAYERS, transformer(2)])
def test_optima_are_those_of_trying_all(space: Space) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        loss, latency = random_model(space, rng, 1.0), random_model(space, rng, -1.0)
        bounds = [5.0, 8.0, 8.5, 9.0, 9.7, 10.0]
        for bound, found in zip(bounds, best_under(space, loss, latency, bounds), strict=True):
            within = [loss(g) for g in space.members() if latency(g) <= bound + 1e-12]
            assert (found is None) == (not within)
            if found is not None:
                assert latency(found) <= bound + 1e-9
                assert loss(found) == pytest.approx(min(within))


def test_thinned_labels_keep_bounds_and_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    space, rng = transformer(2), np.random.default_rng(1)
    loss, latency = random_model(space, rng, 1.0), random_model(space, rng, -1.0)
    fastest = min(latency(genome) for genome in space.members())
    bounds = [fastest + 1e-9, 8.0, 9.0, 9.5]
    exact = best_under(space, loss, latency, bounds)
    monkeypatch.setattr(additive, "MOST_LABELS", 12)
    for bound, best, found in zip(
        bounds, exact, best_under(space, loss, latency, bounds), strict=True
    ):
        assert best is not None
        assert found is not None
        assert latency(found) <= bound
        assert loss(best) - 1e-9 <= loss(found) <= loss(best) + 0.6


def test_replace_one_scores_give_the_effects_back() -> None:
    rng = np.random.default_rng(2)
    model = random_model(LAYERS, rng, 1.0)
    alone = [LAYERS.original, *neighbours(LAYERS, LAYERS.original)]
    found = Additive.from_replace_one(LAYERS, {genome: model(genome) for genome in alone})
    for genome in LAYERS.members():
        assert found(genome) == pytest.approx(model(genome))


def test_genes_that_change_together_share_the_effect() -> None:
    space = transformer(1)
    off = space.encode({"0.attention": "none"})
    found = Additive.from_replace_one(space, {space.original: 1.0, off: 1.8})
    assert found(off) == pytest.approx(1.8)
    assert found.effects[0][0] == pytest.approx(found.effects[1][0]) == pytest.approx(0.4)


def test_a_choice_that_nobody_measured_is_never_taken() -> None:
    scores: dict[Genome, float] = {LAYERS.original: 0.0, (1, 2, 2, 2): 0.1, (0, 1, 0, 0): 0.0}
    loss = Additive.from_replace_one(LAYERS, scores)
    assert loss.effects[0] == (math.inf, 0.1, 0.0)
    latency = Additive(10.0, ((-2.0, -1.0, 0.0),) * 4)
    assert best_under(LAYERS, loss, latency, [9.0, 8.0]) == [(1, 2, 2, 2), None]


def test_json_keeps_what_is_not_known() -> None:
    model = Additive(1.5, ((math.inf, 0.25, 0.0), (0.0,)))
    assert Additive.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False))) == model


def test_effects_need_the_original() -> None:
    with pytest.raises(ValueError, match="scores must hold the original"):
        Additive.from_replace_one(LAYERS, {(1, 2, 2, 2): 0.1})
