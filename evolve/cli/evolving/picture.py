"""Sub-networks as one picture: quality kept against latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evolve.cli.simulations.drawing import INK, LEGEND, PALE, TONES, plain, sheet, written
from evolve.evolution.front import Point

__all__ = ["draw"]

_LOOK = {
    "front": ("o", TONES[0], 4.5, "found by the search"),
    "uniform": ("s", PALE, 6.0, "uniform slice"),
    "tier": ("D", TONES[1], 7.5, "tier"),
    "original": ("*", INK, 11.0, "the original"),
}


def draw(found: Sequence[Point], path: Path, title: str = "") -> Path:
    """Draw them into the file, of the kind that its suffix says, and return its path.

    Raises `PlotError` where matplotlib is not installed or the file cannot be written.
    """
    figure = sheet(7.2, 4.6)
    ax = figure.subplots()
    steps = sorted((p for p in found if p.role == "front"), key=lambda p: p.latency_ms)
    ax.plot([p.latency_ms for p in steps], [_kept(p) for p in steps], color=TONES[0], lw=0.8,
            alpha=0.5)  # fmt: skip
    for role, (mark, colour, size, label) in _LOOK.items():
        own = [p for p in found if p.role == role]
        if own:
            ax.plot([p.latency_ms for p in own], [_kept(p) for p in own], mark, color=colour,
                    ms=size, label=label)  # fmt: skip
    ax.set_xlim(left=0.0)
    ax.set_xlabel("latency as predicted, ms", fontsize=9.5)
    ax.set_ylabel("agreement with the original", fontsize=9.5)
    ax.set_title(title, fontsize=10, loc="left")
    ax.legend(loc="lower right", **LEGEND)
    plain(ax, grid="both")
    return written(figure, path)


def _kept(point: Point) -> float:
    return 1.0 - point.quality_loss
