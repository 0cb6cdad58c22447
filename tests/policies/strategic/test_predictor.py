"""The predictor: exact where the truth has its form, honest about what it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from policies.strategic import Gene, Predictor, Space
from policies.strategic.predictor import _best_fit, _Design, _features, kendall_tau
from tests.policies.strategic.spaces import LAYERS, objectives, transformer

EVERY = list(LAYERS.members())
TRUTH = np.array([objectives(genome).values for genome in EVERY])


def test_it_learns_genes_and_neighbouring_pairs() -> None:
    rows = np.random.default_rng(0).permutation(len(EVERY))[:50]
    predictor = Predictor.fit(LAYERS, [EVERY[i] for i in rows], TRUTH[rows])
    predicted, doubt = predictor.predict(EVERY)
    assert predicted.shape == doubt.shape == (81, 3)
    np.testing.assert_allclose(predicted, TRUTH, atol=0.02 * np.ptp(TRUTH, axis=0).max())
    assert all(tau is not None and tau > 0.9 for tau in predictor.taus)


def test_left_out_predictions_are_those_of_fits_without_each() -> None:
    rng = np.random.default_rng(1)
    features, scale = rng.normal(size=(12, 5)), np.ones(5)
    y = rng.normal(size=12)
    closed = _Design.of(features, scale).left_out(y, ridge=0.5)
    for i in range(12):
        others = np.arange(12) != i
        x, mean = features[others], features[others].mean(axis=0)
        gram = (x - mean).T @ (x - mean) + 0.5 * np.eye(5)
        weights = np.linalg.solve(gram, (x - mean).T @ (y[others] - y[others].mean()))
        expected = y[others].mean() + (features[i] - mean) @ weights
        assert closed[i] == pytest.approx(expected)


def test_doubt_is_less_near_what_was_measured() -> None:
    rng = np.random.default_rng(2)
    seen = [genome for genome in EVERY if genome[3] == 2][:20]
    y = np.array([[objectives(g).quality_loss + 0.01 * rng.normal()] for g in seen])
    _, doubt = Predictor.fit(LAYERS, seen, y).predict([seen[4], (0, 0, 0, 0)])
    assert doubt[0, 0] < doubt[1, 0]


def test_noise_alone_has_no_order() -> None:
    y = np.random.default_rng(3).normal(size=(81, 1))
    tau = Predictor.fit(LAYERS, EVERY, y).taus[0]
    assert tau is not None
    assert abs(tau) < 0.3


def test_equal_values_have_no_tau_and_no_doubt() -> None:
    predictor = Predictor.fit(LAYERS, EVERY[:9], np.full((9, 2), 0.25))
    assert predictor.taus == (None, None)
    predicted, doubt = predictor.predict(EVERY)
    np.testing.assert_allclose(predicted, 0.25)
    np.testing.assert_allclose(doubt, 0.0, atol=1e-12)


def test_genes_of_one_choice_tell_nothing() -> None:
    space = Space([Gene("a", (1,), "a"), Gene("b", (0, 1, 2, 3), "b")])
    genomes = list(space.members())
    predictor = Predictor.fit(space, genomes, np.arange(4.0)[:, None])
    assert predictor.predict(genomes)[0].shape == (4, 1)
    constant = Space([Gene("a", (1,), "a")])
    features, _ = _features(constant, [(0,)] * 3)
    fit = _best_fit([_Design.of(features, np.ones(0))], np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(fit.predict(features)[0], 2.0)


def test_pairs_are_of_neighbours_and_of_one_kind() -> None:
    space = transformer(3)
    _, is_pair = _features(space, [space.original])
    # Eight that follow each other and twice three of one kind, each of two choices by two.
    assert is_pair.sum() == 4 * (8 + 6)
    assert (~is_pair).sum() == 2 * 9


def test_too_few_genomes_are_refused() -> None:
    with pytest.raises(ValueError, match="N >= 3 genomes"):
        Predictor.fit(LAYERS, EVERY[:2], TRUTH[:2])
    with pytest.raises(ValueError, match="for 4 genomes"):
        Predictor.fit(LAYERS, EVERY[:4], TRUTH[:3])


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 1, 2, 3], [1, 2, 3, 4], 5 / np.sqrt(5 * 6)),  # τ-b: the tie counts for neither
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [1], None),
    ],
)
def test_kendall_tau(a: list[float], b: list[float], tau: float | None) -> None:
    assert kendall_tau(a, b) == (None if tau is None else pytest.approx(tau))
