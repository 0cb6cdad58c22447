"""The front of a generation as a picture: quality lost against latency, tiers marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_front"]

LOOKS: Mapping[str, tuple[str, str, float, str]] = {
    "uniform": ("#8a8f98", "s", 26.0, "uniform slices"),
    "front": ("#1f6fb4", "o", 30.0, "found"),
    "original": ("#222222", "D", 60.0, "the model"),
    "tier": ("#c8553d", "*", 150.0, "tiers"),
}
"""By role: colour, marker, size in points squared, name; drawn in this order."""


def draw_front(ax: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Each point at its latency, ms, and its quality lost, %; a line through what nothing beats."""
    for role, (colour, marker, size, label) in LOOKS.items():
        own = [_at(point) for point in points if point.get("role") == role]
        if own:
            x, y = zip(*own, strict=True)
            ax.scatter(x, y, c=colour, marker=marker, s=size, label=label, zorder=3)
    best = _unbeaten([_at(p) for p in points if p.get("role") != "uniform"])
    ax.plot(*zip(*best, strict=True), color="#1f6fb4", lw=1.0, ls=":", drawstyle="steps-post")
    ax.set_xlabel("latency, ms")
    ax.set_ylabel("quality lost, %")
    ax.set_xlim(left=0)


def _at(point: Mapping[str, Any]) -> tuple[float, float]:
    return float(point["latency_ms"]), 100.0 * float(point["quality_loss"])


def _unbeaten(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those than which none is faster and no worse, the fastest first."""
    found: list[tuple[float, float]] = []
    for latency_ms, lost in sorted(points):
        if not found or lost < found[-1][1]:
            found.append((latency_ms, lost))
    return found
