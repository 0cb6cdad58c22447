"""Sub-networks that agreed too little with the original while serving, kept for later starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet.cache import MEMO

if TYPE_CHECKING:
    from evolve.watch.live_agreement import LiveAgreements
    from supernet.cache import ArtifactCache

__all__ = ["known_low", "remember_low"]


def remember_low(
    cache: ArtifactCache, graph_hash: str, subnet: str, agreements: LiveAgreements
) -> None:
    """Keeps that the sub-network of this graph was found below what was asked."""
    report = {
        "measure": agreements.measure,
        "least": agreements.least,
        "why": agreements.why_below(subnet),
    }
    cache.put_report(_name(graph_hash), report)


def known_low(cache: ArtifactCache, graph_hash: str, measure: str, least: float) -> str | None:
    """Why a sub-network must not serve where `least` is asked by `measure`; None where nothing is
    known against it. One that was below less than that is below this, too."""
    report = cache.report(_name(graph_hash)) or {}
    was_asked = report.get("least")
    if report.get("measure") != measure or not isinstance(was_asked, float) or was_asked > least:
        return None
    return f"found earlier: {report.get('why')}"


def _name(graph_hash: str) -> str:
    return f"{MEMO}tier-{graph_hash[:20]}"
