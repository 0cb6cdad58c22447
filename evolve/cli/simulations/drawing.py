"""Parts that the pictures of a comparison have in common: colours, axes, files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evolve.journal.plot import PlotError, matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["INK", "LEGEND", "PALE", "TONES", "log_axis", "plain", "sheet", "written"]

# Okabe & Ito's colours, told apart with every kind of colour vision; without the yellow, which
# white paper swallows.
TONES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, PALE = "#222222", "#8a8f98"
LEGEND = {"fontsize": 8.5, "frameon": False}
_DPI = 200


def sheet(width: float, height: float) -> Any:
    """An empty figure, sizes in inches."""
    figure_of, _ = matplotlib()
    return figure_of(figsize=(width, height), layout="constrained")


def written(figure: Any, path: Path) -> Path:
    """Save the figure and return its path. Raises `PlotError` where it cannot be written."""
    try:
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:
        told = f"plot file must be one that can be written, got {path} ({error})"
        raise PlotError(told) from None
    return path


def plain(ax: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """Two spines, a pale grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#e6e6e6", lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8.5)


def log_axis(ax: Axes) -> None:
    """Labelled 1, 2, 5, 10, … as people read numbers."""
    _, ticker = matplotlib()
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())
