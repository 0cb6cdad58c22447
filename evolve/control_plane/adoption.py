"""Adoptions: the sub-networks that a user wants to serve as quality tiers, by name.

They outlive revisions: what was adopted for a model is adopted again when its plans are built anew,
and let go once its weights are others.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.trained import name_of, write_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NAME", "Adoption", "Adoptions"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True, slots=True)
class Adoption:
    """A sub-network to serve. `weights`: a copy of what it was given, None for the original's;
    `graph_hash`: of the model it was adopted for, "" until that is captured; `is_found`: by the
    runtime itself, not its user's."""

    name: str
    spec: SubnetSpec
    weights: Path | None
    graph_hash: str = ""
    is_found: bool = False


class Adoptions:
    """All of one runtime, in the order in which they were adopted. Thread-safe.

    `changed` is notified of each change, and guards them.

    >>> adoptions = Adoptions()
    >>> adoptions.add(SubnetSpec(()), None, "small").name
    'small'
    >>> adoptions.remove("small").name, adoptions.all()
    ('small', ())
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._all: dict[str, Adoption] = {}
        self._folder: Path | None = None
        self._remove_folder: Callable[[], object] = lambda: None

    def add(
        self,
        spec: SubnetSpec,
        weights: Mapping[str, Tensor] | Path | str | None,
        name: str | None,
        *,
        is_found: bool = False,
    ) -> Adoption:
        """Takes one in, with a copy of its weights; a `ValueError` or `TypeError` says what is
        wrong with it."""
        if not isinstance(spec, SubnetSpec):
            raise TypeError(f"spec must be a SubnetSpec, got {type(spec).__name__}")
        if name is not None and not NAME.fullmatch(name):
            raise ValueError(f"name must be 1 to 40 letters, digits, '_', '.', '-', got {name!r}")
        kept = None if weights is None else self._copied(weights)
        name = name or name_of(spec, kept)
        with self.changed:
            if name in self._all:
                raise ValueError(f"name must be a new one, got {name!r}; dismiss that tier first")
            self._all[name] = adoption = Adoption(name, spec, kept, is_found=is_found)
            self.changed.notify_all()
        return adoption

    def remove(self, name: str) -> Adoption:
        """Lets one go; a `ValueError` where there is none of that name."""
        with self.changed:
            if name not in self._all:
                known = ", ".join(self._all) or "none"
                raise ValueError(f"name must be that of a tier ({known}), got {name!r}")
            adoption = self._all.pop(name)
            self.changed.notify_all()
        if adoption.weights is not None:
            adoption.weights.unlink(missing_ok=True)
        return adoption

    def bind(self, adoption: Adoption, graph_hash: str) -> Adoption:
        """Notes for which model it was adopted, where that is not known yet."""
        with self.changed:
            if not adoption.graph_hash and self._all.get(adoption.name) is adoption:
                adoption = self._all[adoption.name] = replace(adoption, graph_hash=graph_hash)
            return adoption

    def has(self, adoption: Adoption) -> bool:
        """Whether it is still wanted."""
        with self.changed:
            return self._all.get(adoption.name) is adoption

    def all(self) -> tuple[Adoption, ...]:
        with self.changed:
            return tuple(self._all.values())

    def close(self) -> None:
        """Removes the copies of weights."""
        self._remove_folder()

    def _copied(self, weights: Any) -> Path:
        with self.changed:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="evolve-tiers-"))
                self._remove_folder = weakref.finalize(self, _remove, self._folder, os.getpid())
            descriptor, made = tempfile.mkstemp(".safetensors", dir=self._folder)
        with open(descriptor, "wb"):
            path = Path(made)
        if isinstance(weights, Mapping):
            others = [name for name, one in weights.items() if not isinstance(one, torch.Tensor)]
            if others or not weights:
                got = repr(weights[others[0]]) if others else "none"
                raise TypeError(f"weights must be tensors by name, got {got}")
            write_weights(weights, path)
            return path
        if not isinstance(weights, (str, Path)) or not Path(weights).is_file():
            raise ValueError(
                f"weights must be tensors by name or a safetensors file, got {weights!r}"
            )
        shutil.copyfile(weights, path)
        return path


def _remove(folder: Path, owner: int) -> None:
    """A fork that ends leaves it alone."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
