"""Sub-networks of MiniLM as sessions of ONNX Runtime, and sentences as embeddings by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from supernet.backends.onnx_file import export_onnx
from supernet.elastic.extracted import Subnet

__all__ = ["Session", "embeddings", "session_of"]

_ROWS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A session of one thread; takes ids, types and mask, int64 `[rows, tokens]`."""

    session: Any

    def run(self, given: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        """The last hidden state `[rows, tokens, features]`."""
        names = [one.name for one in self.session.get_inputs()]
        outputs = [self.session.get_outputs()[0].name]
        found: npt.NDArray[np.float32] = self.session.run(
            outputs, dict(zip(names, given, strict=True))
        )[0]
        return found


def session_of(subnet: Subnet, folder: Path) -> Session:
    """The sub-network exported anew; the file lies in ``folder``."""
    import onnxruntime as ort

    folder.mkdir(parents=True, exist_ok=True)
    path = export_onnx(subnet.export(), subnet.signature, folder)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return Session(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


def embeddings(
    session: Session, tokenizer: Any, sentences: Sequence[str]
) -> npt.NDArray[np.float64]:
    """The mean of the last hidden state over the real tokens, of length 1; like lengths go
    together."""
    tokens = tokenizer(list(sentences), truncation=True, max_length=128)["input_ids"]
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    found: list[npt.NDArray[np.float64] | None] = [None] * len(tokens)
    for start in range(0, len(order), _ROWS):
        group = order[start : start + _ROWS]
        longest = max(len(tokens[i]) for i in group)
        ids = np.zeros((len(group), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, i in enumerate(group):
            ids[row, : len(tokens[i])] = tokens[i]
            mask[row, : len(tokens[i])] = 1
        hidden = session.run((ids, np.zeros_like(ids), mask)).astype(np.float64)
        means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        for row, i in enumerate(group):
            found[i] = means[row]
    return np.stack([one for one in found if one is not None])
