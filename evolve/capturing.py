"""What a capture brings to a runtime, and the capture made in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evolve.original import Original
from supernet.capture import original_only

if TYPE_CHECKING:
    import torch

    from profiler.shapes import Shape
    from supernet.cache import ArtifactCache
    from supernet.capture import Capture, Subject

__all__ = ["Found", "capture_here", "stand_in"]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A capture, and what else was learned where nobody was served meanwhile.

    `flops` of one row by shape. `stored` gives the folder of the captured program in the cache;
    None: it is still to be written there.
    """

    capture: Capture
    flops: Mapping[Shape, float] = field(default_factory=dict)
    stored: Callable[[ArtifactCache], Path] | None = None


def capture_here(subject: Subject, max_rows: int) -> Found:
    """Captures in the calling thread. Tracing patches torch for the whole process, and counting
    FLOPs switches kernels: nobody may be served meanwhile."""
    captured = subject.capture(max_rows)
    return Found(captured, Original(subject.model, captured).flops())


def stand_in(model: torch.nn.Module, reason: str) -> Found:
    """Nothing is known of `model`: the original serves, and `reason` says why."""
    return Found(original_only(model, reason, hashed=False))
