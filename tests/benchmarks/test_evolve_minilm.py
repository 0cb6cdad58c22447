"""The tasks of `python -m benchmarks evolve_minilm`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.evolve_minilm import main
from benchmarks.minilm_tasks import Task, read, shares

PAIRS = Task("STS-B", ("a", "b", "c"), np.array([[0, 1], [0, 2], [1, 2]]), np.array([1.0, 3, 2]))


def test_pairs_are_judged_by_ranks() -> None:
    rows = np.arange(3)
    assert PAIRS.score(np.array([0.1, 0.9, 0.2]), rows) == pytest.approx(1.0)
    assert PAIRS.score(np.array([0.9, 0.1, 0.2]), rows) == pytest.approx(-1.0)
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert PAIRS.outcomes(vectors) == pytest.approx([0.0, 1.0, 0.0])


def test_classes_are_judged_by_a_probe_on_rows_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 200)
    told = rng.normal(0, 1, (200, 5)) + 4 * classes[:, None]
    texts = tuple(str(i) for i in range(200))
    task = Task("SST-2", texts, np.arange(200)[:, None], classes.astype(float))
    every = np.arange(200)
    assert task.score(task.outcomes(told), every) > 0.97
    blind = task.outcomes(rng.normal(0, 1, (200, 100)))  # enough features to learn 160 by heart
    assert task.score(blind, every) == pytest.approx(0.5, abs=0.15)
    found = shares(task, np.ones(200), np.repeat([1.0, 0.0], [198, 2]), seed=0)
    assert found.value == pytest.approx(99.0)
    assert 97.0 < found.lower < 99.0


def test_no_sentence_that_judges_is_learnt_from(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for part, count in (("train", 40), ("dev", 10)):
        lines = [f"g\tf\ty\t{i}\t{i % 5}\tA {part} {i} here.\tB {part} {i % 7} there."
                 for i in range(count)]  # fmt: skip
        (folder / f"stsb_sts-{part}.csv").write_text("\n".join(lines))
        lines = [f"a film {part} {i}\t{i % 2}" for i in range(count)]
        (folder / f"sst2_{part}.tsv").write_text("\n".join(lines))
    (folder / "wikitext2_valid.txt").write_text(
        " = T = \n It was a test here . It went well so .\n"
    )
    texts = read(tmp_path, most=None, seed=0)
    judging = {s for task in texts.tasks for s in task.sentences}
    assert [len(task.pairs) for task in texts.tasks] == [30, 30]
    assert not judging & set(texts.corpus)
    assert texts.sources["SST-2, training half"] == 20
    assert 0 < texts.sources["STS-B, training half"] <= 20
    assert texts.sources["WikiText-2, validation"] == 2


def test_without_data_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("EVOLVE_DATA", str(tmp_path))
    assert main([]) == 0
    assert "skipped: EVOLVE_DATA must be a folder" in capsys.readouterr().out
