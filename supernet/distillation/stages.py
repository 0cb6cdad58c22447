"""The finished parts of a long way on disk, so that a second start takes them up.

::

    FOLDER/<of what>/<part>/<n>/   record.json, and weights.safetensors where the part has weights
    FOLDER/<of what>/<part>-steps/ checkpoints of the distillation within the part
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from supernet.elastic.supernet import Supernet
from supernet.elastic.trained import tied, write_weights
from supernet.jobs.checkpoints import Checkpoints

__all__ = ["Stages"]


class Stages:
    """Parts of what ``of`` names, in a folder; nothing is kept or found without one."""

    def __init__(self, folder: Path | None, of: str) -> None:
        self._folder = None if folder is None else folder / of[:16]
        self._of = {"pipeline": of}

    def record(self, part: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for this part, JSON-able, when it was first asked for."""
        found = self._newest(part)
        if found is not None:
            return json.loads((found / "record.json").read_text(encoding="utf-8"))
        made = make()
        self._add(part, made, None)
        return made

    def net(
        self, part: str, base: Supernet, make: Callable[[], tuple[Supernet, Any]]
    ) -> tuple[Supernet, Any]:
        """``base`` with the weights that ``make`` gave it in this part, and its record."""
        from safetensors.torch import load_file

        found = self._newest(part)
        if found is not None:
            record = json.loads((found / "record.json").read_text(encoding="utf-8"))
            weights = tied(load_file(found / "weights.safetensors"), base.original)
            return base.with_weights(weights), record
        made, record = make()
        self._add(part, record, made.weights)
        return made, record

    def steps(self, part: str) -> Path | None:
        """The folder for a distillation's own checkpoints."""
        return None if self._folder is None else self._folder / f"{part}-steps"

    def _newest(self, part: str) -> Path | None:
        kept = self._kept(part)
        return None if kept is None else kept.newest()

    def _add(self, part: str, record: Any, weights: Mapping[str, Tensor] | None) -> None:
        kept = self._kept(part)
        if kept is None:
            return

        def save(folder: Path) -> None:
            (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
            if weights is not None:
                write_weights(weights, folder / "weights.safetensors")

        kept.add(save)
        if (steps := self.steps(part)) is not None:
            Checkpoints(steps, {}).clear()

    def _kept(self, part: str) -> Checkpoints | None:
        return None if self._folder is None else Checkpoints(self._folder / part, self._of)
