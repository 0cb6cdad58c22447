"""What the strategic loop decided, in words and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.journal.decision import Decision
from evolve.journal.explain import explain, headline
from evolve.journal.front import _unbeaten
from evolve.journal.plot import PlotError, plot
from tests.evolve.journals import journal_at, tick


def point(role: str, lost: float, latency_ms: float) -> dict[str, Any]:
    return {
        "describe": role, "quality_loss": lost, "latency_ms": latency_ms, "memory_mib": 1.0,
        "role": role,
    }  # fmt: skip


FRONT = [
    point("original", 0.0, 9.0), point("tier", 0.01, 4.0), point("front", 0.02, 3.0),
    point("uniform", 0.03, 4.0),
]  # fmt: skip
TIER = {"quality": 0.99, "speedup": 2.25, "reason": "no other is as fast within 1 %"}


def generation(**changes: Any) -> Decision:
    told: dict[str, Any] = {
        "seen": {"inputs": 256, "requests": 9000, "traffic_s": 900.0, "load_per_s": 10.0},
        "before": {"tiers": {"old": {}, "kept": {}}},
        "after": {"tiers": {"kept": {}, "new": TIER}, "front": FRONT},
        "reason": "24 sub-networks were measured",
        "scores": {"utility with": 0.8, "utility without": 0.6},
    }  # fmt: skip
    with journal_at(None) as journal:
        return journal.append("generation", "7", **{**told, **changes})


def test_it_tells_why_a_tier_was_chosen() -> None:
    words = explain(generation())
    assert words.splitlines()[0].startswith("Decision 1, generation 7, ")
    assert "256 live inputs were kept; 9000 requests in the last 900 s of traffic, 10/s." in words
    assert (
        "The tier kept, as before; the tier new (quality 0.99, 2.25 × as fast): no other" in words
    )
    assert (
        "the tier old goes; out of 3 that nothing measured beats or are tiers, and 1 unif" in words
    )
    assert "worth 0.8, without 0.6 (+0.2)" in words
    assert headline(generation()) == "+new -old"


def test_one_that_was_skipped_says_so() -> None:
    side = {"tiers": {}}
    skipped = generation(
        before=side, after=side, scores={}, seen={}, applied=False,
        reason="skipped: plans are still being built",
    )  # fmt: skip
    words = explain(skipped)
    assert "No tier." in words
    assert "Skipped: plans are still being built." in words
    assert "no figure for what they are worth" in words.lower()
    assert headline(skipped) == ""


def test_nothing_that_is_slower_and_no_better_is_on_the_line() -> None:
    assert _unbeaten([(3.0, 2.0), (1.0, 5.0), (2.0, 5.0), (3.0, 1.0)]) == [(1.0, 5.0), (3.0, 1.0)]


def test_the_front_is_drawn_with_the_ticks_or_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    with journal_at(None) as journal:
        ticks = [tick(journal, n) for n in range(3)]
    drawn: list[Any] = []
    monkeypatch.setattr("evolve.journal.plot.draw_front", lambda ax, front: drawn.append(front))
    plot(ticks, tmp_path / "ticks.png")
    assert drawn == []
    monkeypatch.undo()
    sizes = {}
    for name, decisions in {"both": [*ticks, generation()], "front": [generation()]}.items():
        sizes[name] = plot(decisions, tmp_path / f"{name}.png").stat().st_size
    assert sizes["both"] > (tmp_path / "ticks.png").stat().st_size
    assert sizes["front"] > 0
    with pytest.raises(PlotError, match="at least 2 ticks"):
        plot([generation(after={})], tmp_path / "none.png")
