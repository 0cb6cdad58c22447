"""The source that a build starts from, out of the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.cache import MEMO, ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.signature import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["StoredSource"]


class StoredSource:
    """The stored capture in the forms a backend may start from; `say` is told of stages."""

    def __init__(
        self, cache: ArtifactCache, capture: StoredCapture, say: Callable[[str, float], None]
    ) -> None:
        self._cache, self._capture, self._say = cache, capture, say

    @property
    def signature(self) -> Signature:
        return self._capture.signature

    def program(self) -> ExportedProgram:
        return self._capture.program()

    def references(self) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        return [(batch.inputs, batch.outputs) for batch in self._capture.batches("torch")]

    def onnx(self) -> Path:
        from supernet.backends.onnx_file import ONNX_FILE, export_onnx

        def export(folder: Path) -> None:
            self._say("exporting to ONNX", 0.1)
            export_onnx(self.program(), self.signature, folder)

        return self._kept("onnx", self._capture.graph_hash, export) / ONNX_FILE

    def kernels(self, key: str, make: Callable[[Path], None]) -> Path:
        return self._kept("kernels", key, make)

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        key = hashlib.sha256(f"{name} {self._capture.key}".encode()).hexdigest()
        memo = f"{MEMO}{key[:32]}"
        known = self._cache.report(memo)
        if known is None:
            known = {"value": make()}
            self._cache.put_report(memo, known)
        return known["value"]

    def _kept(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of an entry, filled by ``make`` if there is none."""
        folder = self._cache.entry(kind, key)
        if folder is None:
            with self._cache.adding(kind, key) as out:
                make(out)
            folder = self._cache.entry(kind, key)
        if folder is None:
            raise OSError(f"{kind}/{key}, just written, cannot be read back")
        return folder
