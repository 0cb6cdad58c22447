"""Decisions of the strategic loop, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolve.journal.decision import Decision

__all__ = ["chosen", "expected", "headline", "seen"]


def headline(d: Decision) -> str:
    """Which tiers came and went; empty where none did."""
    before, after = _tiers(d.before), _tiers(d.after)
    came = [f"+{name}" for name in after if name not in before]
    return " ".join(came + [f"-{name}" for name in before if name not in after])


def seen(d: Decision) -> str:
    """The inputs it learned from, and the load it was for."""
    told = [f"{d.seen.get('inputs', 0.0):.0f} live inputs were kept"]
    if "requests" in d.seen:
        requests, seconds = d.seen["requests"], d.seen.get("traffic_s", 0.0)
        load = d.seen.get("load_per_s", 0.0)
        told.append(f"{requests:.0f} requests in the last {seconds:.0f} s of traffic, {load:.3g}/s")
    return "; ".join(told)


def chosen(d: Decision) -> str:
    """Each tier, and why it is one; what else was measured."""
    before, after = _tiers(d.before), _tiers(d.after)
    told = [_why(name, row, is_new=name not in before) for name, row in after.items()]
    told += [f"the tier {name} goes" for name in before if name not in after]
    if not told:
        told = ["no tier"]
    if front := d.after.get("front"):
        told.append(f"out of {_front(front)}")
    return "; ".join(told)


def expected(d: Decision) -> str:
    """What the service is worth with them and without, as its twin has it."""
    known = {name.removeprefix("utility "): value for name, value in d.scores.items()}
    if not {"with", "without"} <= known.keys():
        return "no figure for what they are worth was found"
    gain = known["with"] - known["without"]
    return (
        f"with them the service is worth {known['with']:.3g}, without {known['without']:.3g} "
        f"({gain:+.2g}), as its twin plays the traffic of late"
    )


def _tiers(side: Mapping[str, Any]) -> Mapping[str, Any]:
    tiers = side.get("tiers")
    return tiers if isinstance(tiers, Mapping) else {}


def _why(name: str, row: Any, *, is_new: bool) -> str:
    if not isinstance(row, Mapping) or not row:
        return f"the tier {name}, {'adopted' if is_new else 'as before'}"
    quality, speedup = row.get("quality", 0.0), row.get("speedup", 0.0)
    return (
        f"the tier {name} (quality {quality:.4g}, {speedup:.3g} × as fast): {row.get('reason', '')}"
    )


def _front(front: Any) -> str:
    roles = [str(point.get("role")) for point in front if isinstance(point, Mapping)]
    slices, others = roles.count("uniform"), len(roles) - roles.count("uniform")
    return f"{others} that nothing measured beats or are tiers, and {slices} uniform slices"
