"""The pictures of a comparison: episodes over time, utility by regime, regret by load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.cli.simulations.drawing import INK, LEGEND, PALE, TONES, log_axis, plain, sheet, written
from evolve.cli.simulations.episodes import episode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sims.evaluation.results import ComparedPolicy, Comparison
    from sims.evaluation.statistics import ConfidenceInterval

__all__ = ["draw"]

MARKS = "osD^vP*X<>"
SHOWN = 3
"""Policies side by side in a picture over time."""
_LOOK = {
    "default": ("o", TONES[0], TONES[0], "as installed"),
    "tuned": ("D", TONES[2], TONES[2], "tuned on other seeds"),
    "hindsight": ("s", "#ffffff", INK, "best in hindsight"),
}
"""Marker, face, edge, and what it means."""


def draw(found: Comparison, policies: Sequence[str], out: Path) -> list[Path]:
    """Draw all pictures into the folder `out` and return their paths.

    Over time: the first three of `policies`, tuned where they were (the rule as it is). Raises
    `PlotError` where matplotlib is not installed or `out` cannot be written.
    """
    shown = [row for name in policies for row in _shown(found, name)[:1]][:SHOWN]
    files = [
        written(episode(found, shown, regime), out / f"timeline-{regime}.png")
        for regime in found.regimes
    ]
    files.append(written(_by_regime(found), out / "utility.png"))
    files.append(written(_by_load(found), out / "regret.png"))
    return files


def _shown(found: Comparison, name: str) -> list[ComparedPolicy]:
    """The rows that stand for a policy: tuned where it was; of the rule both."""
    rows = [row for row in found.rows if row.name == name]
    if name == found.rows[0].name:
        return rows
    return [row for row in rows if row.how != "default"] or rows


def _by_regime(found: Comparison) -> Any:
    """One panel per regime, one line per policy, named once at the left: nothing to look up."""
    regimes = found.regimes
    columns = min(4, len(regimes))
    lines = math.ceil(len(regimes) / columns)
    figure = sheet(2.3 * columns + 2.2, (0.19 * len(found.rows) + 0.75) * lines + 0.8)
    grid = figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False)
    places = list(range(len(found.rows)))[::-1]
    for ax in list(grid.flat)[len(regimes) :]:
        ax.set_visible(False)
    for ax, regime in zip(grid.flat, regimes, strict=False):
        bound = float(found.bound[found.where(regime=regime)].mean())
        reference = found.utility(found.rows[0], regime=regime).mean
        ax.axvline(bound, color=TONES[1], lw=1.2, ls="--", label="clairvoyant bound")
        ax.axvline(reference, color=PALE, lw=1.0, label="default rule")
        for row, y in zip(found.rows, places, strict=True):
            _dot(ax, found.utility(row, regime=regime), y, row.how)
        ax.set_title(regime, fontsize=9.5)
        ax.set_yticks(places, [row.label for row in found.rows])
        ax.set_ylim(-0.7, len(places) - 0.3)
        plain(ax, grid="x")
        ax.tick_params(labelbottom=True)
    grid[0][0].set_xlim(left=-0.02)
    figure.supxlabel("utility: accuracy of the answers in time over all requests", fontsize=9.5)
    handles, labels = grid[0][0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once, loc="outside upper center", ncols=min(5, 1 + columns),
                  **LEGEND)  # fmt: skip
    return figure


def _dot(ax: Axes, interval: ConfidenceInterval, y: float, how: str) -> None:
    mark, face, edge, label = _LOOK[how]
    ax.errorbar(
        interval.mean, y, xerr=_half(interval), fmt=mark, ms=4.5, mfc=face, mec=edge, ecolor=edge,
        elinewidth=1.2, capsize=2, label=label,
    )  # fmt: skip


def _half(interval: ConfidenceInterval) -> float:
    """Of one seed alone nothing is drawn."""
    return interval.half if math.isfinite(interval.half) else 0.0


def _by_load(found: Comparison) -> Any:
    """A line per policy, tuned where it was; the default rule in black."""
    names = dict.fromkeys(row.name for row in found.rows)
    rows = [row for name in names for row in _shown(found, name)]
    loads = found.suite.loads
    mean: dict[str, list[float]] = {}
    figure = sheet(7.6, 4.8)
    ax = figure.subplots()
    for k, row in enumerate(rows):
        regrets = [found.regret(row, load=load) for load in loads]
        mean[row.label] = [one.mean for one in regrets]
        aside = 0.004 * (k - (len(rows) - 1) / 2)  # so that no interval hides another
        _, _, bars = ax.errorbar(
            [load + aside for load in loads], mean[row.label], yerr=[_half(one) for one in regrets],
            color=TONES[(k - 1) % len(TONES)] if k else INK,
            ls="-" if k <= len(TONES) else "--", marker=MARKS[k % len(MARKS)], ms=5,
            lw=1.3 if k else 2.2, elinewidth=1.0, label=row.label,
        )  # fmt: skip
        for bar in bars:
            bar.set_alpha(0.5)
    log_axis(ax)
    ax.set_ylim(bottom=max(0.02, 0.6 * min(min(values) for values in mean.values())))
    ax.set_xlabel("load over the cheapest plan's capacity", fontsize=9.5)
    ax.set_ylabel("regret to the clairvoyant bound, points", fontsize=9.5)
    ax.set_xticks(loads, [f"{load:g}" for load in loads])
    plain(ax, grid="both")
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: -mean[labels[k]][-1])  # as the lines end
    ax.legend(
        [handles[k] for k in order], [labels[k] for k in order], loc="upper left",
        bbox_to_anchor=(1.01, 1.0), **LEGEND,
    )  # fmt: skip
    return figure
