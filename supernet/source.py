"""What a build starts from, out of the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from supernet.cache import MEMO, ArtifactCache
from supernet.signature import Signature
from supernet.stored import PROGRAM, StoredCapture

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Say", "StoredSource"]

Say: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Called with a record of progress."""


class StoredSource:
    """The stored capture in the forms a backend may start from."""

    def __init__(
        self, cache: ArtifactCache, capture: StoredCapture, scratch: Path, say: Say
    ) -> None:
        self._cache, self._capture, self._scratch, self._say = cache, capture, scratch, say

    @property
    def signature(self) -> Signature:
        return self._capture.signature

    def program(self) -> ExportedProgram:
        from supernet.backends.eager import load_program

        return load_program(self._capture.folder / PROGRAM)

    def references(self) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        return [(batch.inputs, batch.outputs) for batch in self._capture.batches("torch")]

    def onnx(self) -> Path:
        from supernet.backends.onnx_file import ONNX_FILE, export_onnx

        key = self._capture.graph_hash
        folder = self._cache.entry("onnx", key)
        if folder is None:
            self._say({"stage": "exporting to ONNX", "share": 0.1})
            with self._cache.adding("onnx", key) as out:
                export_onnx(self.program(), self.signature, out)
            folder = self._cache.entry("onnx", key)
        if folder is None:
            raise OSError("the ONNX file just written cannot be read back")
        return folder / ONNX_FILE

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        key = hashlib.sha256(f"{name} {self._capture.graph_hash}".encode()).hexdigest()
        memo = f"{MEMO}{key[:32]}"
        known = self._cache.report(memo)
        if known is None:
            known = {"value": make()}
            self._cache.put_report(memo, known)
        return known["value"]

    def scratch(self) -> Path:
        return self._scratch
