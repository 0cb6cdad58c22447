"""The report of the demo: one table, one picture, one JSON file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from evolve.demo.contenders import Figures, Stream
    from evolve.demo.load import Outcome
    from evolve.journal.decision import Decision
    from profiler.fingerprint import DeviceFingerprint

__all__ = ["figures_table", "plot", "write_json"]

ROWS = (
    ("goodput in the surge, answers/s within the SLO", "surge_goodput_per_s", "{:.0f}"),
    ("goodput over the whole stream, answers/s", "goodput_per_s", "{:.0f}"),
    ("requests met, % of offered", "met_ratio", "{:.1%}"),
    ("refused early, % of offered", "refused_ratio", "{:.1%}"),
    ("latency p50, ms", "p50_ms", "{:.1f}"),
    ("latency p99, ms", "p99_ms", "{:.1f}"),
    ("largest output error (relative L2)", "error", "{:.1e}"),
    ("padded tokens, % of computed", "padded_token_ratio", "{:.1%}"),
    ("memory of all processes, MiB", "memory_mib", "{:.0f}"),
    ("failed requests", "failed", "{:.0f}"),
)
PACKAGES = ("torch", "onnxruntime", "openvino", "transformers", "numpy", "numba")


def figures_table(results: Mapping[str, Figures], stream: Stream) -> Table:
    """The contenders side by side."""
    table = Table(title=f"MiniLM-L6, real sentences, SLO {stream.slo_ms:g} ms")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for title, field, form in ROWS:
        table.add_row(
            title, *(form.format(getattr(figures, field)) for figures in results.values())
        )
    plain = results["plain"].surge_goodput_per_s
    if plain > 0:
        ratios = (f"{figures.surge_goodput_per_s / plain:.2f} ×" for figures in results.values())
        table.add_row("goodput in the surge against plain", *ratios, style="bold")
    return table


def write_json(
    path: Path,
    results: Mapping[str, Figures],
    *,
    stream: Stream,
    device: DeviceFingerprint,
    static_setting: str,
    seed: int,
) -> None:
    """The figures with everything needed to judge and repeat them."""
    record = {
        **{name: figures.to_json() for name, figures in results.items()},
        "static_setting": static_setting,
        "stream": {
            "requests": len(stream.sent_s),
            "seconds": stream.seconds,
            "surge_s": stream.surge_s,
            "slo_ms": stream.slo_ms,
        },
        "fingerprint": device.to_json(),
        "seeds": {"arrivals": seed, "sentences": seed},
        "versions": {"python": platform.python_version(), **_versions()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for package in ("evolve-runtime", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def plot(
    path: Path,
    outcomes: Mapping[str, Outcome],
    stream: Stream,
    decisions: Sequence[Decision],
    began_s: float,
) -> None:
    """Load and goodput, tail latency, and the plans in use, over time.

    `began_s` is the journal's uptime when evolve's stream began.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.arange(0.0, stream.seconds + 0.5, 0.5)
    figure, (top, middle, bottom) = pyplot.subplots(
        3, 1, figsize=(9, 8), sharex=True, layout="constrained"
    )
    offered = np.histogram(stream.sent_s, edges)[0] * 2
    top.stairs(offered, edges, color="0.6", label="offered", fill=True, alpha=0.35)
    for name, outcome in outcomes.items():
        met = outcome.met(stream.slo_ms)
        top.stairs(np.histogram(outcome.sent_s[met], edges)[0] * 2, edges, label=name, lw=1.8)
        middle.stairs(_tail(outcome, edges), edges, label=name, lw=1.8, baseline=None)
    top.set(ylabel="requests/s", title="Answered within the SLO, of those offered")
    middle.axhline(stream.slo_ms, color="k", ls="--", lw=1, label=f"SLO {stream.slo_ms:g} ms")
    middle.set(ylabel="ms", title="p95 latency of answers, from the intended send time")
    middle.set_ylim(0, stream.slo_ms * 2)
    _plans(bottom, decisions, began_s, stream.seconds)
    for axes in (top, middle, bottom):
        axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _tail(outcome: Outcome, edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    answered = ~outcome.refused & ~outcome.failed
    bins = np.digitize(outcome.sent_s, edges) - 1
    tails = np.full(len(edges) - 1, np.nan)
    for i in range(len(tails)):
        latencies = outcome.latency_ms[answered & (bins == i)]
        if latencies.size:
            tails[i] = np.quantile(latencies, 0.95)
    return tails


def _plans(axes: Any, decisions: Sequence[Decision], began_s: float, seconds: float) -> None:
    ticks = [d for d in decisions if d.kind == "tick" and 0 <= d.uptime_s - began_s <= seconds + 1]
    names = sorted({key for d in ticks for key in d.seen if key.startswith("plan:")})
    times = [d.uptime_s - began_s for d in ticks]
    shares = [[d.seen.get(name, 0.0) for d in ticks] for name in names]
    if names:
        labels = [name.removeprefix("plan:") for name in names]
        axes.stackplot(times, shares, labels=labels, step="pre", alpha=0.8)
    axes.set(ylabel="share of rows", xlabel="seconds", ylim=(0, 1), title="Plans chosen by evolve")
