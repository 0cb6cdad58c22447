"""Liberties that the service may take and no caller asked for: to batch requests, to pad them.

capture grants ──▶ in force ──▶ withdrawn (final for this graph and these weights)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from supernet.cache import MEMO
from supernet.errors import CacheError

if TYPE_CHECKING:
    from evolve.data_plane.request_queue import Request
    from supernet.cache import ArtifactCache

__all__ = ["Liberties", "Liberty", "Licence", "Memory"]

Liberty: TypeAlias = Literal["batching", "padding"]


@dataclass(frozen=True, slots=True)
class Liberties:
    """What is allowed now; read once per request and once per batch.

    >>> Liberties(batching=True, padding=False).group(length=7, number=3)
    -7
    """

    batching: bool
    padding: bool

    def group(self, length: int, number: int) -> int:
        """Requests of equal groups may share a batch; `number` is no other request's."""
        if not self.batching:
            return number
        return 0 if self.padding else -length

    def apart(
        self, requests: Sequence[Request], length: int
    ) -> list[tuple[Sequence[Request], int]]:
        """A batch that was to run padded to `length`, as the parts that may run, with theirs.

        Requests that waited while a liberty was withdrawn were put together under it.
        """
        if not self.batching:
            return [((r,), length if self.padding else r.length) for r in requests]
        if self.padding or all(r.length == length for r in requests):
            return [(requests, length)]
        lengths = dict.fromkeys(r.length for r in requests)
        return [([r for r in requests if r.length == own], own) for own in lengths]


class Memory:
    """Where withdrawn liberties are remembered, so that a restart does not take them again.

    Args:
        root: The cache's folder, which is not made to find out that nothing is remembered; None
            where there is none.
        open_cache: Opens it.
        graph_hash: Of the model that it is about, weights included.
    """

    def __init__(
        self, root: Path | None, open_cache: Callable[[], ArtifactCache], graph_hash: str
    ) -> None:
        self._root = root
        self._open = open_cache
        self._name = f"{MEMO}liberties-{graph_hash[:20]}"

    def recall(self) -> dict[str, str]:
        """Why each withdrawn liberty was; empty where nothing is known."""
        try:
            known = self._root and self._root / "reports" / f"{self._name}.json"
            if known is None or not known.exists():
                return {}
            report = self._open().report(self._name) or {}
        except (CacheError, OSError):
            return {}
        return {str(name): str(why) for name, why in dict(report.get("withdrawn", {})).items()}

    def remember(self, withdrawn: Mapping[str, str]) -> None:
        """Raises `CacheError` or `OSError` where it can't be written."""
        self._open().put_report(self._name, {"withdrawn": dict(withdrawn)})


class Licence:
    """The liberties in force, shared by everyone who takes one. Only ever narrowed.

    Args:
        granted: What the capture allows.
        memory: Of earlier runs of the same model; None to keep none.
        earlier: What was withdrawn from earlier captures of the model in this process, whatever
            its weights were then; added to.
    """

    def __init__(
        self,
        granted: Liberties,
        memory: Memory | None = None,
        earlier: dict[str, str] | None = None,
    ) -> None:
        self._memory = memory
        self._earlier = {} if earlier is None else earlier
        self._lock = threading.Lock()
        recalled = {} if memory is None else memory.recall()
        self.withdrawn: Mapping[str, str] = {**recalled, **self._earlier}
        self.now = _without(granted, self.withdrawn)

    def withdraw(self, liberty: Liberty, why: str) -> None:
        """Takes one back for good: from the next request on, and for what waits from the next
        batch. Raises `CacheError` or `OSError` where that can't be remembered.
        """
        with self._lock:
            if liberty in self.withdrawn:
                return
            self.now = _without(self.now, {liberty})
            self.withdrawn = {**self.withdrawn, liberty: why}
            self._earlier[liberty] = why
            if self._memory is not None:
                self._memory.remember(self.withdrawn)


def _without(liberties: Liberties, withdrawn: Collection[str]) -> Liberties:
    return Liberties(
        batching=liberties.batching and "batching" not in withdrawn,
        padding=liberties.padding and "padding" not in withdrawn,
    )
