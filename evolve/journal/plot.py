"""A journal as one picture: load, latency against the objective, met, plans, what held when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.errors import EvolveError
from evolve.journal.decision import Decision
from evolve.journal.front import draw_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PlotError", "TickSeries", "matplotlib", "plot"]

OFFERED, ANSWERED, MEDIAN, TAIL, LIMIT = "#8a8f98", "#1f6fb4", "#5aa469", "#c8553d", "#222222"
TONES = ("#1f6fb4", "#e0a030", "#5aa469", "#8d6cab", "#c8553d", "#4fb0ae", "#b08968", "#7f7f7f")
GAP_S = 5.0


class PlotError(EvolveError, RuntimeError):
    """The picture cannot be drawn: nothing to draw, or the plotting library is missing."""


@dataclass(frozen=True, slots=True)
class TickSeries:
    """The ticks of a journal on one axis of seconds, runs after restarts set one after another.

    `ticks` and `events` pair a time in seconds with a decision; `events` are the plan, worker
    and runtime decisions.
    """

    ticks: tuple[tuple[float, Decision], ...]
    events: tuple[tuple[float, Decision], ...]

    @classmethod
    def of(cls, decisions: Iterable[Decision]) -> TickSeries:
        """Within a run time is the monotonic uptime; only between runs the wall clock counts."""
        ticks: list[tuple[float, Decision]] = []
        events: list[tuple[float, Decision]] = []
        offset_s = 0.0
        previous: Decision | None = None
        for d in decisions:
            if previous is None:
                offset_s = -d.uptime_s
            elif d.uptime_s < previous.uptime_s:
                pause_s = max(0.0, _epoch_s(d) - _epoch_s(previous))
                offset_s += previous.uptime_s - d.uptime_s + pause_s
            previous = d
            if d.kind == "tick" and d.seen:
                ticks.append((offset_s + d.uptime_s, d))
            elif d.kind in ("plan", "worker", "runtime", "tier"):
                events.append((offset_s + d.uptime_s, d))
        return cls(tuple(ticks), tuple(events))

    def series(self, key: str, *, needs: str = "") -> tuple[list[float], list[float]]:
        """Times and values of one signal; NaN where it has no data (its count `needs` is 0).

        A NaN also stands in every pause of more than 5 s, so that no line is drawn across it.
        """
        times: list[float] = []
        values: list[float] = []
        for at_s, d in self.ticks:
            if times and at_s - times[-1] > GAP_S:
                times.append(at_s)
                values.append(math.nan)
            known = key in d.seen and (not needs or d.seen.get(needs, 1) > 0)
            times.append(at_s)
            values.append(d.seen[key] if known else math.nan)
        return times, values

    def spans(self) -> list[tuple[float, float, str]]:
        """What was in force from when to when: (start, length, name), neighbours joined."""
        spans: list[tuple[float, float, str]] = []
        for (at_s, d), (next_s, _) in zip(
            self.ticks, [*self.ticks[1:], self.ticks[-1]], strict=True
        ):
            name = in_force(d)
            length_s = min(next_s - at_s, GAP_S)
            if spans and spans[-1][2] == name and at_s - sum(spans[-1][:2]) < 1e-6:
                start_s, so_far_s, _ = spans.pop()
                spans.append((start_s, so_far_s + length_s, name))
            else:
                spans.append((at_s, length_s, name))
        return spans


def in_force(d: Decision) -> str:
    """Name of the parameters that held after a tick: those chosen, or the old ones if vetoed."""
    side = d.after if d.applied else d.before
    return str(side.get("name") or side.get("preset") or d.policy or "unnamed")


def plot(decisions: Sequence[Decision], out: Path, *, title: str = "") -> Path:
    """Draw the journal's ticks into a PNG (or what `out`'s suffix says), below them the front of
    the last generation that has one, and return its path.

    Raises `PlotError` where there is no front and fewer than two ticks carry figures, or matplotlib
    is not installed.
    """
    timeline = TickSeries.of(decisions)
    found = next((d for d in reversed(decisions) if d.after.get("front")), None)
    has_ticks = len(timeline.ticks) >= 2
    if not has_ticks and found is None:
        raise PlotError(
            f"plot must have at least 2 ticks with figures, got {len(timeline.ticks)}; let the "
            "runtime serve for some seconds, or widen --where"
        )
    figure_of, ticker = matplotlib()
    shares = _plan_shares(timeline)
    heights = [*([8.4 if shares else 7.0] * has_ticks), *([3.6] * (found is not None))]
    figure = figure_of(figsize=(10.5, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if has_ticks:
        _draw_ticks(parts[0], timeline, shares, ticker)
    if found is not None:
        ax = parts[-1].subplots()
        draw_front(ax, found.after["front"])
        _legend(ax, f"Sub-networks measured, as of generation {found.subject}")
        ax.spines[["top", "right"]].set_visible(False)
    named = title or (_title(timeline) if has_ticks else "")
    figure.suptitle(named, fontsize=12, fontweight="bold")
    try:
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise PlotError(f"plot file must be one that can be written, got {out} ({error})") from None
    return out


def _draw_ticks(figure: Any, timeline: TickSeries, shares: list[str], ticker: Any) -> None:
    heights = [3, 3, 2, 2, 1] if shares else [3, 3, 2, 1]
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    _draw_load(axes[0], timeline)
    _draw_latency(axes[1], timeline)
    _draw_met(axes[2], timeline, ticker)
    if shares:
        _draw_plans(axes[3], timeline, shares, ticker)
    _draw_force(axes[-1], timeline)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.01)
    axes[-1].set_xlim(*_limits(timeline))
    axes[-1].set_xlabel("seconds since the first decision shown")
    figure.align_ylabels(axes)


def matplotlib() -> tuple[Any, Any]:
    """A maker of figures that need no display, and matplotlib's tickers; imported only here.

    Raises `PlotError` where matplotlib is not installed.
    """
    try:
        import matplotlib.ticker as ticker
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(
            "plot must have matplotlib to draw with, which is not installed; "
            "pip install 'evolve-runtime[plot]'"
        ) from error

    def figure_of(**options: Any) -> Any:
        figure = Figure(**options)
        FigureCanvasAgg(figure)  # no display, no global state
        return figure

    return figure_of, ticker


def _draw_load(ax: Axes, timeline: TickSeries) -> None:
    # `arrival_per_s` remembers 40 ms: seen once a second it is noise. All that ended within the
    # window's second, answered or refused, follows the load as well, one latency later.
    counted = any("offered_per_s" in d.seen for _, d in timeline.ticks)
    key, label = ("offered_per_s", "arriving") if counted else ("ended", "answered or refused")
    ax.plot(*timeline.series(key), color=OFFERED, lw=1.4, label=label)
    ax.plot(*timeline.series("served_per_s"), color=ANSWERED, lw=1.6, label="answered")
    ax.set_ylabel("requests/s")
    ax.set_ylim(bottom=0)
    _legend(ax, "Load")


def _draw_latency(ax: Axes, timeline: TickSeries) -> None:
    ax.plot(*timeline.series("p99_ms", needs="ended"), color=TAIL, lw=1.6, label="p99")
    ax.plot(*timeline.series("p50_ms", needs="ended"), color=MEDIAN, lw=1.6, label="p50")
    times, slo_ms = timeline.series("slo_ms")
    finite = [v for v in slo_ms if v > 0]
    if finite:
        ax.plot(times, slo_ms, color=LIMIT, lw=1.1, ls="--", label=f"objective, {finite[-1]:g} ms")
    ax.set_ylabel("latency, ms")
    ax.set_ylim(bottom=0)
    _legend(ax, "Latency of answered requests")


def _draw_met(ax: Axes, timeline: TickSeries, ticker: Any) -> None:
    ax.plot(*timeline.series("met_ratio", needs="ended"), color=ANSWERED, lw=1.6, label="in time")
    refused = timeline.series("refused_ratio", needs="ended")
    ax.plot(*refused, color=TAIL, lw=1.2, label="refused")
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    ax.set_ylim(-0.03, 1.05)
    ax.set_ylabel("of all that ended")
    _legend(ax, "Requests met and refused")


def _draw_plans(ax: Axes, timeline: TickSeries, shares: list[str], ticker: Any) -> None:
    # A tick's shares are those since the tick before it, hence steps that end at the tick.
    times = [at_s for at_s, _ in timeline.ticks]
    rows = [[d.seen.get(f"plan:{name}", 0.0) for _, d in timeline.ticks] for name in shares]
    ax.stackplot(times, rows, labels=shares, colors=TONES, step="pre", lw=0)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    ax.set_ylim(0, 1)
    ax.set_ylabel("of the rows")
    _legend(ax, "Plans that answered")


def _draw_force(ax: Axes, timeline: TickSeries) -> None:
    spans = timeline.spans()
    names = list(dict.fromkeys(name for _, _, name in spans))
    for index, name in enumerate(names):
        where = [(start, length) for start, length, held in spans if held == name]
        ax.broken_barh(where, (0, 1), color=TONES[index % len(TONES)], label=name, lw=0)
    marks = [at_s for at_s, d in timeline.events if d.kind == "plan"]
    faults = [at_s for at_s, d in timeline.events if d.kind == "worker"]
    if marks:
        ax.plot(marks, [1.25] * len(marks), "|", color=LIMIT, ms=8, label="plan decided")
    if faults:
        ax.plot(faults, [1.25] * len(faults), "x", color=TAIL, ms=6, label="worker event")
    ax.set_ylim(0, 1.5)
    ax.set_yticks([])
    _legend(ax, "Dispatch setting in force")


def _legend(ax: Axes, title: str) -> None:
    """Title at the left above the panel; the legend right of the panel, out of the lines' way."""
    ax.set_title(title, loc="left", fontsize=10)
    ax.grid(axis="y", color="#e6e6e6", lw=0.8)
    ax.set_axisbelow(True)
    ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.03), frameon=False, fontsize=8.5)


def _limits(timeline: TickSeries) -> tuple[float, float]:
    """From the first to the last tick; what was decided long before traffic came is left out."""
    first_s, last_s = timeline.ticks[0][0], timeline.ticks[-1][0]
    margin_s = max(0.02 * (last_s - first_s), 1e-3)
    return first_s - margin_s, last_s + margin_s


def _plan_shares(timeline: TickSeries) -> list[str]:
    """Plans by the rows they answered, most first."""
    total: dict[str, float] = {}
    for _, d in timeline.ticks:
        for key, share in d.seen.items():
            if key.startswith("plan:") and share > 0:
                total[key[5:]] = total.get(key[5:], 0.0) + share
    return sorted(total, key=lambda name: -total[name])[: len(TONES)]


def _title(timeline: TickSeries) -> str:
    first, last = timeline.ticks[0][1], timeline.ticks[-1][1]
    day = first.at.replace("T", " ")[:19]
    policies = ", ".join(dict.fromkeys(d.policy for _, d in timeline.ticks if d.policy))
    return f"Decisions {first.seq} to {last.seq}, from {day} UTC" + (
        f", policy {policies}" if policies else ""
    )


def _epoch_s(d: Decision) -> float:
    try:
        return datetime.fromisoformat(d.at.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
