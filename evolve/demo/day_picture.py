"""A day as a picture: load, latency, who answered, and how far that agrees with the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evolve.demo.day import BEGINS

if TYPE_CHECKING:
    from evolve.demo.day import Day, Lived
    from evolve.journal.decision import Decision
    from evolve.slo import SLO

__all__ = ["draw"]

_BINS = 96
_HOURS = 24.0


def draw(
    path: Path, lived: Lived, day: Day, slo: SLO, decisions: Sequence[tuple[float, Decision]]
) -> None:
    """Over the hours of the day; `decisions` with the seconds from its beginning."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0.0, day.seconds, _BINS + 1)
    hours, width_s = edges * _HOURS / day.seconds, day.seconds / _BINS
    outcome = lived.outcome
    figure, (load, latency, who, agreement) = pyplot.subplots(
        4, 1, figsize=(10, 10), sharex=True, layout="constrained", height_ratios=(3, 2, 3, 2)
    )
    offered = np.histogram(outcome.sent_s, edges)[0] / width_s
    met = np.histogram(outcome.sent_s[outcome.met(slo.p99_ms)], edges)[0] / width_s
    load.stairs(offered, hours, fill=True, color="0.85", label="offered")
    load.stairs(met, hours, lw=1.8, color="#1f6fb4", label=f"answered within {slo.p99_ms:g} ms")
    load.set(ylabel="requests/s", title="A day of traffic")
    _latency(latency, lived, edges, hours, slo.p99_ms)
    _who(who, lived, edges, hours)
    _agreement(agreement, lived, day, slo.min_quality)
    agreement.set(xlabel="hour of the day", xlim=(0, _HOURS), xticks=range(0, 25, 3))
    agreement.set_xticklabels([f"{(BEGINS + hour) % 24}" for hour in range(0, 25, 3)])
    _mark(who, decisions, day.seconds)
    for axes in (load, latency, who, agreement):
        axes.legend(loc="upper left", fontsize=8, framealpha=0.9)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _latency(axes: Any, lived: Lived, edges: Any, hours: Any, slo_ms: float) -> None:
    outcome = lived.outcome
    answered = ~outcome.refused & ~outcome.failed
    bins = np.digitize(outcome.sent_s, edges) - 1
    tails = np.full(_BINS, np.nan)
    for i in range(_BINS):
        own = outcome.latency_ms[answered & (bins == i)]
        tails[i] = np.quantile(own, 0.95) if own.size else np.nan
    axes.stairs(tails, hours, lw=1.6, color="#1f6fb4", baseline=None, label="p95 of the answers")
    axes.axhline(slo_ms, color="k", ls="--", lw=1, label=f"SLO {slo_ms:g} ms")
    axes.set(ylabel="ms", ylim=(0, 1.6 * slo_ms))


def _who(axes: Any, lived: Lived, edges: Any, hours: Any) -> None:
    counts = np.array([np.histogram(lived.outcome.sent_s[lived.by == number], edges)[0]
                       for number in range(len(lived.names))])  # fmt: skip
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    labels = ["the model", *lived.names[1:]]
    axes.stackplot(hours[:-1], shares, labels=labels, step="post", alpha=0.8)
    axes.set(ylabel="share of answers", ylim=(0, 1), title="Who answered; generations that adopted")


def _mark(axes: Any, decisions: Sequence[tuple[float, Decision]], seconds: float) -> None:
    for at_s, decision in decisions:
        if decision.kind == "generation" and decision.applied and 0 <= at_s <= seconds:
            axes.axvline(at_s * _HOURS / seconds, color="k", lw=1.2, ls=":")


def _agreement(axes: Any, lived: Lived, day: Day, least: float) -> None:
    scale = _HOURS / day.seconds
    for number, name in enumerate(("the model", *lived.names[1:])):
        own = [i for i in lived.agreement if lived.by[i] == number]
        axes.plot(
            [lived.outcome.sent_s[i] * scale for i in own], [lived.agreement[i] for i in own],
            ".", ms=3.5, label=name,
        )  # fmt: skip
    axes.axhline(least, color="k", ls="--", lw=1, label=f"min_quality {least:g}")
    low = min([*lived.agreement.values(), least], default=least)
    axes.set(ylabel="cosine with the model", ylim=(max(0.0, low - 0.05), 1.005))
