"""Which models a run tries: kinds in turn, families of each in an order that the seed decides."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.trust.cases import KINDS
from benchmarks.trust.families import FAMILIES

__all__ = ["BACKENDS", "Entry", "corpus", "one_family"]

BACKENDS = ("eager", "onnxruntime", "openvino", "fused", "aoti")
_SEEDS = 10_000  # of the models of one corpus
# Shares of the models: AOTInductor takes ten times as long as another plan.
_COMPILED = 0.05
_ALL = 0.1
# What is wrong about these is seen whoever answers: half of them are served without plans, which
# takes a fifth of the time.
_WHOEVER = ("coupled", "independent", "padded", "stateful")
_PLAIN = 0.5
# What is wrong about these is an engine's doing, and never torch's.
_ENGINES = ("integer", "errors", "nonfinite")


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the corpus, and the plans that are built of it. All follows from the family,
    the seed and the backends that may be used. No backends: the original serves."""

    family: str
    seed: int
    backends: tuple[str, ...]
    precisions: tuple[str, ...]

    @property
    def kind(self) -> str:
        return FAMILIES[self.family].kind

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Entry:
        return Entry(
            data["family"], data["seed"], tuple(data["backends"]), tuple(data["precisions"])
        )


def corpus(
    models: int,
    seed: int,
    kinds: Collection[str] = KINDS,
    backends: Sequence[str] = BACKENDS,
) -> list[Entry]:
    """So many models; another seed orders families anew and draws every model anew."""
    order = {kind: _families(kind, seed) for kind in KINDS if kind in kinds}
    turns = itertools.islice(itertools.cycle(order), models)
    return [
        _entry(next(order[kind]), seed * _SEEDS + index, backends)
        for index, kind in enumerate(turns)
    ]


def one_family(
    name: str, models: int, seed: int, backends: Sequence[str] = BACKENDS
) -> list[Entry]:
    """Models of one family, the first of this very seed, as a run reports it."""
    if name not in FAMILIES:
        near = [known for known in FAMILIES if name.lower() in known.lower()]
        raise ValueError(f"family must be one of the corpus, got {name!r}; similar are {near[:9]}")
    return [_entry(name, seed + index, backends) for index in range(models)]


def _families(kind: str, seed: int) -> Iterator[str]:
    names = [name for name, family in FAMILIES.items() if family.kind == kind]
    return itertools.cycle(np.random.default_rng(seed).permutation(names).tolist())


def _entry(name: str, seed: int, backends: Sequence[str]) -> Entry:
    """One engine alone mostly: among several, the fastest would answer and hide the others."""
    quick = [backend for backend in backends if backend != "aoti"]
    rng = np.random.default_rng(seed)  # not the seed's remainder: kinds come in turn
    turn, kind = rng.random(), FAMILIES[name].kind
    if "aoti" in backends and (turn < _COMPILED or not quick):
        return Entry(name, seed, ("aoti",), ("fp32",))
    if turn < _COMPILED + _ALL:
        return Entry(name, seed, tuple(quick), ("fp32", "mixed", "int8", "bf16"))
    if kind in _WHOEVER and turn > 1 - _PLAIN and len(quick) > 1:
        return Entry(name, seed, (), ("fp32",))
    if kind in _ENGINES:
        quick = [backend for backend in quick if backend != "eager"] or quick
    return Entry(name, seed, (str(rng.choice(quick)),) if quick else (), ("fp32",))
