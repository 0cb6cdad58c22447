"""Policies on one kind of trace, with the costs of the reference encoder."""

from __future__ import annotations

import json as json_
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import typer

from evolve.cli.plain import say

if TYPE_CHECKING:
    from policies.base import Policy
    from sims.service import Result, Service
    from sims.traces import Trace

__all__ = ["KINDS", "PolicyTable", "one_trace", "print_json", "print_table"]

KINDS = ("poisson", "bursty", "surge")
BURST_CV2 = 4.0
SURGE_FACTOR = 5.0
COLUMNS = ("goodput_per_s", "met_ratio", "refused_ratio", "p50_ms", "p99_ms", "padded_ratio")
COSTS = "Costs: the reference encoder of sims.reference, one thread per worker."
STATIC = (
    " static: the best of the fixed settings (plan, batch cap, wait), swept on each of these very "
    "traces afterwards; nobody could have known it before."
)


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """What one policy reached, one result per seed."""

    policy: str
    results: tuple[Result, ...]

    def figures(self) -> dict[str, float]:
        """Means over the seeds, and `<name>_stdev` where there are at least two."""
        told: dict[str, float] = {}
        for name in COLUMNS:
            values = [float(getattr(result, name)) for result in self.results]
            told[name] = fmean(values)
            if len(values) > 1:
                told[f"{name}_stdev"] = stdev(values)
        return told


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """The rows, and what they are of."""

    rows: tuple[PolicyRow, ...]
    traces: tuple[Trace, ...]
    workers: int
    slo_ms: float


def one_trace(
    kind: str,
    rate: float | None,
    seconds: float,
    policies: Sequence[str],
    seeds: int,
    service: Service,
) -> PolicyTable:
    """Play each policy on `seeds` traces of a kind, or of a file, and return what came of it.

    Raises BadParameter for a kind or a policy that is none, before anything runs.
    """
    from rich.progress import track

    from evolve.cli.screen import screen

    runs = {name: _runner(name) for name in policies}
    traces = [_trace(kind, rate, seconds, seed, service) for seed in range(seeds)]
    # A simulation of a file that has its own lengths is the same for every seed.
    done: dict[str, list[Result]] = {name: [] for name in runs}
    pairs = [(name, one) for one in traces for name in runs]
    bar = track(pairs, "Simulating", console=screen(stderr=True), transient=True)
    for name, one in bar:
        done[name].append(runs[name](service, one))
    rows = tuple(PolicyRow(name, tuple(results)) for name, results in done.items())
    return PolicyTable(rows, tuple(traces), service.workers, service.slo_ms)


def _runner(name: str) -> Callable[[Service, Trace], Result]:
    """How to run one policy; a name that is none is wrong usage, said before anything runs."""
    from sims.simulate import simulate, sweep_static

    if name == "static":
        return lambda service, trace: sweep_static(trace, {"": service})[0].result
    policy = _policy(name)
    return lambda service, trace: simulate(service, trace, policy)


def _policy(name: str) -> Policy:
    from policies.plugins import load_policy, policy_names

    if name not in policy_names() and not Path(name).is_dir():
        known = ", ".join(sorted(("static", *policy_names())))
        raise typer.BadParameter(
            f"policy must be {known} or an exported folder, got {name!r}", param_hint="--policies"
        )
    return load_policy(name)


def _trace(kind: str, rate: float | None, seconds: float, seed: int, service: Service) -> Trace:
    from sims import traces

    rate_per_s = 150.0 if rate is None else rate
    if kind == "poisson":
        return traces.poisson(rate_per_s, seconds, seed=seed)
    if kind == "bursty":
        return traces.bursty(rate_per_s, seconds, cv2=BURST_CV2, seed=seed)
    if kind == "surge":
        return traces.surge(rate_per_s, SURGE_FACTOR * rate_per_s, seconds, seed=seed)
    if not Path(kind).is_file():
        raise typer.BadParameter(
            f"trace must be {', '.join(KINDS)} or a CSV file, got {kind!r}", param_hint="--trace"
        )
    return _recorded(Path(kind), rate, seconds, seed, service)


def _recorded(path: Path, rate: float | None, seconds: float, seed: int, service: Service) -> Trace:
    from dataclasses import replace

    from sims.traces import recorded

    trace = recorded(path, seed=seed)
    if rate is not None:
        trace = trace.rescaled(rate)
    # Recorded prompts may be longer than the reference encoder takes: it would truncate them.
    longest = int(service.lengths[-1])
    return replace(trace.head(seconds), lengths=trace.head(seconds).lengths.clip(1, longest))


def _note(rows: Sequence[PolicyRow]) -> str:
    return COSTS + (STATIC if any(row.policy == "static" for row in rows) else "")


def print_json(found: PolicyTable) -> None:
    """Everything, one JSON object."""
    rows, traces = found.rows, found.traces
    told = {
        "trace": traces[0].name,
        "seeds": [one.seed for one in traces],
        "requests": [len(one) for one in traces],
        "workers": found.workers,
        "slo_ms": found.slo_ms,
        "note": _note(rows),
        "policies": {
            row.policy: {"mean": row.figures(), "runs": [asdict(one) for one in row.results]}
            for row in rows
        },
    }
    say(json_.dumps(told, indent=2))


def print_table(found: PolicyTable) -> None:
    """One line per policy, means over the seeds."""
    rows, traces = found.rows, found.traces
    from rich.table import Table

    from evolve.cli.screen import screen

    mean_rate = fmean(one.rate_per_s for one in traces)
    table = Table(
        title=f"{traces[0].name}, {mean_rate:.0f} requests/s on average, {len(traces)} seeds, "
        f"{found.workers} workers, {found.slo_ms:g} ms",
        title_justify="left",
        caption=_note(rows),
        caption_justify="left",
    )
    table.add_column("policy", overflow="fold")
    for title in ("goodput/s", "met", "refused", "p50 ms", "p99 ms", "padding"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        told = row.figures()
        table.add_row(
            row.policy,
            _cell(told, "goodput_per_s", ""),
            _cell(told, "met_ratio", " %"),
            f"{told['refused_ratio']:.1%}",
            f"{told['p50_ms']:.1f}",
            f"{told['p99_ms']:.1f}",
            f"{told['padded_ratio']:.1%}",
        )
    screen().print(table)


def _cell(told: dict[str, float], name: str, unit: str) -> str:
    scale = 100.0 if unit else 1.0
    spread = told.get(f"{name}_stdev")
    more = "" if spread is None else f" ± {spread * scale:.1f}"
    return f"{told[name] * scale:.1f}{more}{unit}"
