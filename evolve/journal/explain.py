"""A decision in words, as a colleague would tell it: seen, chosen, why, expected, what followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evolve.journal import generations
from evolve.journal.decision import Decision

__all__ = ["changes", "explain", "follower", "headline"]

# What the parameters of the dispatch rule do, to be read after "instead of".
_PARAMETERS = {
    "margin": "a batch may use {} × the most urgent request's slack",
    "beta": "waiting work counts {} ×",
    "alpha": "expected arrivals count {} ×",
    "delta": "early drop at strictness {}",
    "spread": "lengths in a batch up to {} × apart",
    "max_rows": "batches of up to {} rows",
    "wait_ms": "held up to {} ms for a fuller batch",
    "plan": "plan number {}",
}
_FOLLOWED = (
    ("p99_ms", "p99", "{:.3g} ms", 1.0),
    ("met_ratio", "met in time", "{:.0f} %", 100.0),
    ("refused_ratio", "refused", "{:.0f} %", 100.0),
    ("queue", "waiting", "{:.0f}", 1.0),
    ("arrival_per_s", "arriving", "{:.0f}/s", 1.0),
)


def explain(decision: Decision, later: Decision | None = None) -> str:
    """Paragraphs on one decision; `later` is the first tick recorded after it, if there is one."""
    parts = [
        _opening(decision),
        ("Seen", _seen(decision)),
        ("Chosen", _chosen(decision)),
        ("Why", _sentence(decision.reason or "no reason was recorded")),
        ("Expected", _expected(decision)),
        ("Applied", _applied(decision)),
        ("Followed", _followed(decision, later)),
    ]
    return "\n".join(p if isinstance(p, str) else f"  {p[0]:<9} {p[1]}" for p in parts)


def follower(decision: Decision, decisions: Iterable[Decision]) -> Decision | None:
    """The first tick with figures behind `decision`."""
    return next(
        (d for d in decisions if d.seq > decision.seq and d.kind == "tick" and d.seen), None
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The entries that differ, as "key old → new"."""
    keys = [*after, *(key for key in before if key not in after)]
    return [
        f"{key} {_value(before[key])} → {_value(after[key])}"
        if key in before and key in after
        else (f"{key} {_value(after[key])}" if key in after else f"{key} no longer set")
        for key in keys
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    ]


def headline(d: Decision) -> str:
    """What changed, in a few words for one line; empty when nothing did."""
    old, new = d.before.get("name"), d.after.get("name")
    if d.kind == "tick" and old != new:
        return f"{_value(old)} → {_value(new)}"
    if d.kind == "generation":
        return generations.headline(d)
    return ", ".join(changes(d.before, d.after)[:3])


def _opening(d: Decision) -> str:
    at = d.at.replace("T", " ").replace("Z", " UTC")
    what = "a tick" if d.kind == "tick" else f"a {d.kind} decision"
    about = f"generation {d.subject}" if d.kind == "generation" else f"{what} about {d.subject}"
    on = f" on {d.device}" if d.device else ""
    return f"Decision {d.seq}, {about}, {at}, {d.uptime_s:.1f} s into the run{on}."


def _seen(d: Decision) -> str:
    seen = dict(d.seen)
    if not seen:
        return "No figures were recorded with it."
    if d.kind == "generation":
        return _sentence(generations.seen(d))
    told = [*_traffic(seen), *_outcome(seen), *_costs(seen)]
    shares = {k[5:]: v for k, v in seen.items() if k.startswith("plan:")}
    if shares:
        ranked = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
        told.append("answered by " + ", ".join(f"{k} {_percent(v)}" for k, v in ranked))
    if not told:
        told = [f"{key} {_value(value)}" for key, value in seen.items()]
    return _sentence("; ".join(told))


def _traffic(seen: Mapping[str, float]) -> list[str]:
    told = []
    if "arrival_per_s" in seen:
        uneven = seen.get("burstiness", 1.0)
        how = f" in bursts (CV² {uneven:.1f})" if uneven >= 2 else ""
        served = f", {seen['served_per_s']:.0f}/s answered" if "served_per_s" in seen else ""
        told.append(f"{seen['arrival_per_s']:.0f} requests/s arriving{how}{served}")
    if "queue" in seen:
        queue = seen["queue"]
        slack = seen.get("head_slack_ms")
        left = f", the most urgent with {slack:.3g} ms left" if slack is not None else ""
        if slack is not None and slack < 0:
            left = f", the most urgent {-slack:.3g} ms late"
        told.append(f"{queue:.0f} waiting{left}" if queue else "nobody waiting")
    if "busy_share" in seen:
        told.append(f"workers {_percent(seen['busy_share'])} busy")
    return told


def _outcome(seen: Mapping[str, float]) -> list[str]:
    if "met_ratio" not in seen:
        return []
    if seen.get("ended") == 0:
        return ["no request ended in the last second"]
    told = [f"of those that ended, {_percent(seen['met_ratio'])} in time"]
    if seen.get("refused_ratio"):
        told[0] += f" and {_percent(seen['refused_ratio'])} refused"
    if "p99_ms" in seen:
        slo = seen.get("slo_ms", 0.0)
        of = f" ({_percent(seen['p99_ms'] / slo)} of the {slo:.3g} ms allowed)" if slo else ""
        told.append(f"p50 {seen.get('p50_ms', 0.0):.3g} ms, p99 {seen['p99_ms']:.3g} ms{of}")
    return told


def _costs(seen: Mapping[str, float]) -> list[str]:
    told = []
    if "cost_ratio_mean" in seen and seen.get("batches") != 0:
        mean = seen["cost_ratio_mean"]
        worst = seen.get("cost_ratio_max", mean)
        told.append(f"batches took {mean:.2f} × the predicted time, {worst:.2f} × at worst")
    if seen.get("padded_ratio"):
        told.append(f"{_percent(seen['padded_ratio'])} of the work was padding")
    return told


def _chosen(d: Decision) -> str:
    if d.kind == "generation":
        return _sentence(generations.chosen(d))
    by = f" by the policy {d.policy}" if d.policy else ""
    old, new = d.before.get("name"), d.after.get("name")
    if d.before == d.after:
        if not d.after:
            return "There was nothing to choose."
        kept = f' "{_value(new)}"' if new is not None else " what held"
        return _sentence(f"to keep{kept}{by}")
    if not d.before:
        return _sentence(f"{', '.join(changes({}, d.after))}{by}, where nothing was set before")
    told = [_parameter(key, d.before.get(key), value) for key, value in d.after.items()
            if key != "name" and d.before.get(key) != value]  # fmt: skip
    gone = [f"{key} no longer set" for key in d.before if key not in d.after]
    names = f'"{_value(new)}" instead of "{_value(old)}"{by}' if old != new else ""
    detail = "; ".join(told + gone)
    if not names:
        return _sentence(f"{detail}{by}")
    return _sentence(f"{names}: {detail}" if detail else names)


def _parameter(key: str, old: Any, new: Any) -> str:
    if key == "plan" and isinstance(new, (int, float)) and new < 0:
        return f"any allowed plan instead of plan number {_value(old)}"
    if key == "plan" and isinstance(old, (int, float)) and old < 0:
        return f"plan number {_value(new)} only, instead of any allowed"
    words = _PARAMETERS.get(key, key.replace("_", " ") + " {}")
    return words.format(_value(new)) + ("" if old is None else f" instead of {_value(old)}")


def _expected(d: Decision) -> str:
    if d.kind == "generation":
        return _sentence(generations.expected(d))
    if not d.scores:
        return "The policy gave no figure for what it expected."
    ranked = sorted(d.scores.items(), key=lambda pair: -pair[1])
    chosen, old = str(d.after.get("name")), str(d.before.get("name"))
    if chosen not in d.scores:
        return _sentence("scores " + ", ".join(f'"{k}" {v:.3g}' for k, v in ranked[:4]))
    told = f'"{chosen}" scored {d.scores[chosen]:.3g}'
    if old in d.scores and old != chosen:
        told += f', "{old}" {d.scores[old]:.3g} ({d.scores[chosen] - d.scores[old]:+.2g})'
    rest = [(k, v) for k, v in ranked if k not in (chosen, old)][:2]
    if rest:
        better = rest[0][1] > d.scores[chosen]
        told += ("; higher: " if better else "; next: ") + ", ".join(
            f'"{k}" {v:.3g}' for k, v in rest
        )
    return _sentence(told)


def _applied(d: Decision) -> str:
    if d.applied:
        return "Yes." if d.before != d.after else "Nothing had to be switched."
    return "No: a guard stopped it, and what held before stayed in force."


def _followed(d: Decision, later: Decision | None) -> str:
    if later is None:
        return "No tick was recorded after it."
    after_s = later.uptime_s - d.uptime_s
    # A later run counts its uptime from 0 again: then "how much later" would be made up.
    when = f"{after_s:.1f} s later" if after_s >= 0 else "after a restart"
    told = []
    for key, label, form, scale in _FOLLOWED:
        if later.seen.get(key) or d.seen.get(key):
            new = form.format(later.seen.get(key, 0.0) * scale)
            old = form.format(d.seen[key] * scale) if key in d.seen else None
            told.append(f"{label} {new}" if old in (None, new) else f"{label} {old} → {new}")
    if later.seen.get("ended") == 0:
        told = ["no request ended in its last second"]
    figures = ", ".join(told) or "no figures"
    return f"Tick {later.seq}, {when}: {figures}. What came after need not be its effect."


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share == 0 or share >= 0.01 else f"{share * 100:.1f} %"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    return str(value)


def _sentence(text: str) -> str:
    text = text.strip()
    first = text.split(" ", 1)[0].rstrip(":;,")
    if first.isalpha() and first.islower():  # not a name such as p99 or onnxruntime-fp32
        text = text[0].upper() + text[1:]
    return text + ("" if text.endswith((".", "!", "?", "…")) else ".")
