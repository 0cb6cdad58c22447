"""What one generation leaves for the next: whole, or as the one before left it.

::

    STATE/<n>/   memory.json            the search, times of anchors, what is held
                 weights.safetensors    W₁, which all sub-networks share
                 NAME.safetensors       of each tier that was proposed, its own
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from evolve.evolution.anchors import EAGER, Engine, Timing
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.elastic.trained import tied, write_weights
from supernet.jobs.checkpoints import Checkpoints

__all__ = ["Held", "Memory", "recalled"]

_RECORD, _WEIGHTS = "memory.json", "weights.safetensors"
_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A tier: its weights, by name and of the size that the sub-network has them in."""

    name: str
    spec: SubnetSpec
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What is known after so many generations, 0 before the first.

    `weights`: W₁, None before the first; `version`: how often they have changed; `search`: the
    state of the strategic search; `timings`: of anchors on `engine`; `of`: which model.
    """

    generation: int = 0
    weights: Mapping[str, Tensor] | None = None
    version: int = 0
    search: Mapping[str, Any] | None = None
    engine: Engine = EAGER
    timings: tuple[Timing, ...] = ()
    held: tuple[Held, ...] = ()
    of: str = ""

    def keep(self, folder: Path) -> None:
        """Write it in the place of what is there; killed anywhere, that is still there."""
        Checkpoints(folder, {"model": self.of}).add(self._save)

    def _save(self, folder: Path) -> None:
        if self.weights is not None:
            write_weights(self.weights, folder / _WEIGHTS)
        for one in self.held:
            write_weights(one.weights, folder / f"{one.name}.safetensors")
        record = {
            "v": _VERSION,
            "generation": self.generation,
            "version": self.version,
            "search": self.search,
            "engine": [self.engine.backend, self.engine.precision, self.engine.threads],
            "timings": [timing.to_json() for timing in self.timings],
            "held": [[one.name, one.spec.to_json()] for one in self.held],
        }
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def recalled(folder: Path, net: Supernet, model: str) -> Memory:
    """What the last whole generation left of this model, a fresh one without any.

    What another model, another version of this package or other genes left counts as none.
    """
    from safetensors.torch import load_file

    fresh = Memory(of=model)
    found = Checkpoints(folder, {"model": model}).newest()
    if found is None:
        return fresh
    record = json.loads((found / _RECORD).read_text(encoding="utf-8"))
    if record.get("v") != _VERSION:
        return fresh
    try:
        held = tuple(
            Held(name, net.space.check(SubnetSpec.from_json(spec)),
                 load_file(found / f"{name}.safetensors"))
            for name, spec in record["held"]
        )  # fmt: skip
        weights = None
        if (found / _WEIGHTS).exists():
            weights = tied(load_file(found / _WEIGHTS), net.original)
            net.with_weights(weights)
    except ValueError:  # of other genes or shapes
        return fresh
    return Memory(
        int(record["generation"]), weights, int(record["version"]), record["search"],
        Engine(*record["engine"]), tuple(map(Timing.from_json, record["timings"])), held, model,
    )  # fmt: skip
