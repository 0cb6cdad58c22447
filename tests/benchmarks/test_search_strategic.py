"""Truths that searches are held against: read as written, regret and area as defined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import search_truth
from benchmarks.search_rivals import RIVALS
from benchmarks.search_truth import Truth
from policies.strategic import Gene, Genome, Objectives, Space

SMALL = Space([Gene("0.ffn", (0, 1), "ffn"), Gene("1.ffn", (0, 1), "ffn")])
POINTS: dict[Genome, Objectives] = {
    (1, 1): Objectives(0.0, 4.0, 9.0),
    (0, 1): Objectives(0.1, 2.0, 6.0),
    (1, 0): Objectives(0.5, 3.0, 6.0),
    (0, 0): Objectives(1.0, 1.0, 3.0),
}


def write(path: Path, points: dict[Genome, Objectives]) -> Path:
    rows = [[list(genome), *one.values] for genome, one in points.items()]
    path.write_text(json.dumps({"space": SMALL.to_json(), "objectives": rows}))
    return path


def test_a_truth_is_read_as_written(tmp_path: Path) -> None:
    truth = search_truth.read(write(tmp_path / "truth.json", POINTS))
    assert (truth.space, dict(truth.objectives)) == (SMALL, POINTS)


def test_a_truth_with_gaps_is_refused(tmp_path: Path) -> None:
    some = {genome: POINTS[genome] for genome in ((1, 1), (0, 1))}
    with pytest.raises(ValueError, match="all 4 genomes of the space, got 2"):
        search_truth.read(write(tmp_path / "truth.json", some))
    broken = POINTS | {(0, 0): Objectives(float("nan"), 1.0, 3.0)}
    with pytest.raises(ValueError, match="quality_loss must be finite"):
        search_truth.read(write(tmp_path / "truth.json", broken))


def test_regret_and_area() -> None:
    truth = Truth(SMALL, POINTS)
    assert truth.regret(list(POINTS)) == 0.0
    assert truth.hypervolume(list(POINTS)) == 1.0
    # Without (0, 1), bounds from 2 ms on have 0.5 at most in place of 0.9, below 3 ms nothing.
    regrets = truth.regrets([(1, 1), (1, 0), (0, 0)])
    for bound, regret in zip(truth.bounds_ms(), regrets, strict=True):
        best = 1.0 if bound >= 4.0 else 0.9 if bound >= 2.0 else 0.0
        found = 1.0 if bound >= 4.0 else 0.5 if bound >= 3.0 else 0.0
        assert regret == pytest.approx(0.0 if best == 0.0 else 1.0 - found / best)
    # (1.0 - 0.1) × (4 - 2) of the plane to its worst corner (1.0, 4.0) is all but the original's 0.
    assert truth.hypervolume([(1, 0)]) == pytest.approx(0.5 * 1.0 / (0.9 * 2.0))


def test_the_formula_is_not_additive() -> None:
    shares = [search_truth.synthetic(seed).beyond_additive() for seed in range(10)]
    assert sorted(shares)[5] > 0.1


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_spend_the_budget_on_different_genomes(name: str) -> None:
    truth = search_truth.synthetic(3)
    found = RIVALS[name](truth, 40, 0)
    assert len(set(found)) == len(found) <= 40
    if name != "DP, additive":  # its optima come to an end
        assert len(found) == 40
    assert found == RIVALS[name](truth, 40, 0)
