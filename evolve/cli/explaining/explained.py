"""An explanation of fused plans as tables, or as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.cli.explaining.explanation import Explanation, Story, Timing
from evolve.cli.screen import screen
from evolve.journal.decision import printable

if TYPE_CHECKING:
    from rich.console import Console

    from supernet.fusion.report.region_report import Account
    from supernet.plans import Plan

__all__ = ["as_json", "show"]

MIB = 2**20
NONE = "–"


def show(facts: Explanation) -> None:
    """Print a table per fused artifact, then what its plans really took, then the others."""
    console = screen()
    for story in facts.stories:
        if story.regions is None:
            names = ", ".join(plan.key for plan in story.plans)
            reason = printable(story.plans[0].reason, 300)
            console.print(f"{names}: no files in the cache to explain; {reason}\n", markup=False)
        else:
            _print_regions(console, facts, story)
            console.print(_totals(facts, story), markup=False)
    if facts.stories:
        _print_timings(console, facts)
    else:
        console.print("no fused plan among these, so there are no regions to explain")
    for backend in dict.fromkeys(plan.spec.backend for plan in facts.others):
        plans = [f"{p.key} ({p.state.value})" for p in facts.others if p.spec.backend == backend]
        console.print(f"{_by_itself(backend)}: {', '.join(plans)}", markup=False)


def _by_itself(backend: str) -> str:
    if backend == "eager":
        return "eager runs op by op, nothing is fused"
    return f"{backend} decides by itself what it fuses, and does not tell"


def _print_regions(console: Console, facts: Explanation, story: Story) -> None:
    from rich.table import Table
    from rich.text import Text

    assert facts.shape is not None  # for the type checker: a story with regions has one
    spec = story.plans[0].spec
    table = Table(
        title=f"{', '.join(plan.key for plan in story.plans)} of graph {spec.graph_hash[:8]}",
        title_justify="left",
        caption="#: first region of its kind, ×: how many, whose figures are added up. In "
        "brackets: could be\nsaved, and is not, because torch runs these ops one by one.",
        caption_justify="left",
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("rule", overflow="fold")
    table.add_column("×", justify="right", no_wrap=True)
    for title in ("ops", "layer", "runs on"):
        table.add_column(title, overflow="fold")
    for title in ("MiB saved", "µs saved"):
        table.add_column(title, justify="right")
    for group in _groups(story.accounts):
        table.add_row(*(Text(cell) for cell in _row(facts, story, group)))
    console.print(table)


def _groups(accounts: Sequence[Account]) -> list[list[Account]]:
    """Accounts that are told in one row: of equal regions, and last all that nothing came of."""
    groups: dict[tuple[str, ...], list[Account]] = {}
    idle: list[Account] = []
    for account in accounts:
        if account.region.rule == "none" and not account.kernels:
            idle.append(account)
        else:
            key = (account.alike, account.region.rule, account.runs_on)
            groups.setdefault(key, []).append(account)
    return [*groups.values(), *([idle] if idle else [])]


def _row(facts: Explanation, story: Story, group: Sequence[Account]) -> tuple[str, ...]:
    from supernet.fusion.report.region_report import op_counts

    assert story.regions is not None  # for the type checker: it has accounts
    first = group[0]
    is_idle = first.region.rule == "none" and not first.kernels
    ops = [n for a in (group if is_idle else group[:1]) for n in a.region.ops]
    by_torch, idle = sum(len(account.by_torch) for account in group), {0: NONE, 1: "torch"}
    saved, kept = sum(a.bytes_saved for a in group), sum(a.bytes_kept for a in group)
    return (
        NONE if is_idle else str(first.number),
        "alone" if first.region.rule == "none" else first.region.rule,
        str(len(group)),
        printable(op_counts(story.regions.graph, ops), 200),
        printable(_span([account.layer for account in group]), 100) or NONE,
        idle.get(by_torch, f"torch × {by_torch}") if is_idle else first.runs_on,
        _saved(saved / MIB, kept / MIB, 2),
        _saved(facts.us(saved), facts.us(kept), 0),
    )


def _saved(all_of_it: float | None, kept: float | None, digits: int) -> str:
    """What is kept and, in brackets, what could be besides."""
    if not all_of_it or kept is None:
        return NONE
    least = 10**-digits

    def shown(value: float) -> str:
        return f"{value:.{digits}f}" if value >= least else f"<{least:g}"

    rest = all_of_it - kept
    return " ".join([*([shown(kept)] if kept else []), *([f"({shown(rest)})"] if rest > 0 else [])])


def _span(layers: Sequence[str]) -> str:
    """What the paths have in common, a number that differs as a range: ``encoder.layer.0–5``."""
    common = []
    for parts in zip(*(layer.split(".") for layer in layers), strict=False):
        kinds = set(parts)
        if len(kinds) > 1 and not all(part.isdecimal() for part in kinds):
            break
        common.append(_ranges(sorted(map(int, kinds))) if len(kinds) > 1 else parts[0])
    return ".".join(common)


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs)


def _totals(facts: Explanation, story: Story) -> str:
    assert facts.shape is not None  # for the type checker, as above
    assert story.regions is not None
    saved = sum(account.bytes_saved for account in story.accounts)
    kept = sum(account.bytes_kept for account in story.accounts)
    counts = Counter(engine for account in story.accounts for engine in account.engines)
    engines = ", ".join(f"{n} of {engine}" for engine, n in sorted(counts.items()))
    us = facts.us(kept)
    if us is None:
        time = "how long that takes is not known, as this memory was never measured"
    else:
        time = f"{us:.0f} µs at the {facts.gb_per_s:.3g} GB/s measured here"
    return (
        f"{len(story.regions.graph.graph)} ops in {len(story.accounts)} regions; "
        f"{counts.total()} fused kernels{engines and ': '}{engines}. "
        f"A batch of {facts.shape.rows} × {facts.shape.length} stores {kept / MIB:.2f} MiB less, "
        f"{time}; {(saved - kept) / MIB:.2f} MiB more could be.\n"
    )


def _print_timings(console: Console, facts: Explanation) -> None:
    from rich.table import Table

    table = Table(
        title="Measured, beside the fastest other verified plan of the graph on as many threads",
        title_justify="left",
        caption="What is saved is predicted, as if no cache held the values. This is measured.",
        caption_justify="left",
    )
    for title in ("plan", "state", "error, limit"):
        table.add_column(title, overflow="fold")
    for title in ("shape", "ms"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("other", overflow="fold")
    table.add_column("its ms", justify="right", no_wrap=True)
    table.add_column("takes", justify="right", no_wrap=True)
    for plan in (plan for story in facts.stories for plan in story.plans):
        error = NONE if plan.error is None else f"{plan.error:.1e}"
        head = (plan.key, plan.state.value, f"{plan.metric} {error} of {facts.limit:g}")
        for row in [_timing(timing) for timing in facts.timings(plan)] or [("",) * 5]:
            table.add_row(*head, *row)
            head = ("", "", "")
    console.print(table)


def _timing(timing: Timing) -> tuple[str, ...]:
    shape = f"{timing.shape.rows} × {timing.shape.length}"
    if timing.other is None or timing.other_ms is None:
        return shape, f"{timing.ms:.3g}", NONE, NONE, NONE
    share = timing.ms / timing.other_ms - 1
    verdict = f"{abs(share):.0%} {'more' if share > 0 else 'less'}"
    return shape, f"{timing.ms:.3g}", timing.other.key, f"{timing.other_ms:.3g}", verdict


def as_json(facts: Explanation, drawn: Path | None) -> dict[str, Any]:
    """Everything the tables say and every region, none left out; bytes and µs as numbers."""
    plans = [_plan_json(facts, story, plan) for story in facts.stories for plan in story.plans]
    return {
        "shape": None if facts.shape is None else [facts.shape.rows, facts.shape.length],
        "memory_gb_per_s": facts.gb_per_s,
        "fused": plans,
        "others": [{"plan": p.key, "state": p.state.value, "backend": p.spec.backend,
                    "fusion": _by_itself(p.spec.backend)} for p in facts.others],
        "plot": None if drawn is None else str(drawn),
    }  # fmt: skip


def _plan_json(facts: Explanation, story: Story, plan: Plan) -> dict[str, Any]:
    error = plan.error
    return {
        "plan": plan.key,
        "graph": plan.spec.graph_hash,
        "state": plan.state.value,
        "reason": plan.reason,
        "error": error if error is not None and math.isfinite(error) else None,
        "metric": plan.metric,
        "limit": facts.limit,
        "fusion": plan.spec.fusion,
        "measured": [_timing_json(timing) for timing in facts.timings(plan)],
        "regions": None if story.regions is None else [_json(facts, a) for a in story.accounts],
    }


def _timing_json(timing: Timing) -> dict[str, Any]:
    other = None if timing.other is None else timing.other.key
    shape = [timing.shape.rows, timing.shape.length]
    return {"shape": shape, "ms": timing.ms, "other": other, "other_ms": timing.other_ms}


def _json(facts: Explanation, account: Account) -> dict[str, Any]:
    return {
        "number": account.number,
        "rule": account.region.rule,
        "ops": list(account.region.ops),
        "layer": account.layer,
        "alike": account.alike,
        "runs_on": account.runs_on,
        "kernels": [list(kernel) for kernel in account.kernels],
        "engines": list(account.engines),
        "by_torch": list(account.by_torch),
        "bytes_saved": account.bytes_saved,
        "bytes_kept": account.bytes_kept,
        "us_saved": facts.us(account.bytes_saved),
        "us_kept": facts.us(account.bytes_kept),
    }
