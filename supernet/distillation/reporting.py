"""Event files for TensorBoard, where they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Events"]


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Scalars by step in a folder of event files; nowhere without one."""

    writer: Any = None

    @staticmethod
    def open(folder: Path | None) -> Events:
        """An `ImportError` says what to install where TensorBoard is missing."""
        if folder is None:
            return Events()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "tensorboard must be installed to write event files, found none; "
                "pip install 'evolve-runtime[train]'"
            ) from error
        return Events(SummaryWriter(str(folder)))

    def scalar(self, name: str, value: float, step: int) -> None:
        if self.writer is not None and math.isfinite(value):
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
