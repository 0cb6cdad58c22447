"""The picture of one episode under some policies: what came, how long it took, who answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolve.cli.simulations.drawing import INK, LEGEND, PALE, TONES, log_axis, plain, sheet
from evolve.journal.plot import matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sims.evaluation.results import ComparedPolicy, Comparison
    from sims.evaluation.timeline import Timeline

__all__ = ["episode"]


def episode(found: Comparison, rows: Sequence[ComparedPolicy], regime: str) -> Any:
    """A figure of the first seed of a regime at the load in the middle, one column per row."""
    from sims.evaluation.timeline import timeline

    loads = found.suite.loads
    load = loads[len(loads) // 2]
    cell = int(found.where(regime=regime, load=load)[0])
    service, trace = found.suite.episodes(found.cells[cell], found.seeds[:1])[0]
    seen = [timeline(service, trace, row.policy(cell, 0)) for row in rows]
    figure = sheet(3.1 * len(rows) + 2.2, 6.2)
    grid = figure.subplots(
        3, len(rows), sharex=True, sharey="row", height_ratios=(2, 3, 3), squeeze=False
    )
    for (top, middle, bottom), row, one in zip(grid.T, rows, seen, strict=True):
        _arrivals(top, one)
        _latency(middle, one)
        _plans(bottom, one, service.accuracy)
        top.set_title(f"{row.label}\nutility {one.utility:.3f}", fontsize=10)
        bottom.set_xlabel("time, s", fontsize=9)
    for ax, label in zip(
        grid[:, 0], ("arrivals, 1000 per s", "latency of answers, ms", "share of requests"),
        strict=True,
    ):  # fmt: skip
        ax.set_ylabel(label, fontsize=9)
    for ax in grid[1:, -1]:
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(
            handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.02, 1.03), **LEGEND
        )
    _, ticker = matplotlib()
    grid[0][0].set_xlim(0, _edges_s(seen[0])[-1])
    grid[0][0].xaxis.set_major_locator(ticker.MaxNLocator(5, prune="upper"))
    figure.align_ylabels(list(grid[:, 0]))
    figure.suptitle(
        f"{regime} at {load:g} of the cheapest plan's capacity", fontsize=11, fontweight="bold"
    )
    return figure


def _edges_s(one: Timeline) -> list[float]:
    return [*one.at_s.tolist(), float(one.at_s[-1]) + one.slot_ms / 1e3]


def _arrivals(ax: Axes, one: Timeline) -> None:
    ax.stairs(one.arrivals_per_s / 1e3, _edges_s(one), baseline=None, color=INK, lw=1.1)
    ax.set_ylim(bottom=0)
    plain(ax, grid="y")


def _latency(ax: Axes, one: Timeline) -> None:
    for values, tone, name in ((one.p50_ms, TONES[0], "p50"), (one.p99_ms, TONES[1], "p99")):
        label = f"{name} per {one.slot_ms:g} ms"
        ax.stairs(values, _edges_s(one), baseline=None, color=tone, lw=1.4, label=label)
    ax.axhline(one.slo_ms, color=INK, lw=1.1, ls="--", label=f"deadline, {one.slo_ms:g} ms")
    log_axis(ax)
    plain(ax, grid="y")


def _plans(ax: Axes, one: Timeline, accuracy: Any) -> None:
    """Stacked, dark to bright from the first plan to the last, so that grey print tells them."""
    _, ticker = matplotlib()
    from matplotlib import colormaps

    count = one.by_plan.shape[0]
    tones = colormaps["cividis"]([k / max(1, count - 1) for k in range(count)])
    names = [f"plan {k}" for k in range(count)]
    if accuracy is not None:
        names = [f"{n}, accuracy {100 * a:.1f} %" for n, a in zip(names, accuracy, strict=True)]
    bottom = 0.0 * one.refused
    for share, tone, name in zip(one.by_plan, tones, names, strict=True):
        top = bottom + share
        ax.stairs(top, _edges_s(one), baseline=bottom, fill=True, color=tone, label=name, lw=0)
        bottom = top
    ax.stairs(
        bottom + one.refused, _edges_s(one), baseline=bottom, fill=True, fc="#ffffff", ec=PALE,
        hatch="/////", label="refused", lw=0,
    )  # fmt: skip
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    ax.set_ylim(0, 1)
    plain(ax, grid="y")
