"""Signals for tests: a quiet service, with what a case needs changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from profiler.signals import Signals

QUIET = Signals(
    at_s=10.0,
    slo_ms=50.0,
    workers=2,
    arrival_per_s=40.0,
    arrivals_100ms=(4,) * 10,
    arrivals_10ms=(0, 1) * 5,
    burstiness=1.0,
    queue=0,
    head_slack_ms=50.0,
    busy_share=0.5,
    served_per_s=40.0,
    met_ratio=1.0,
    refused_ratio=0.0,
    p50_ms=8.0,
    p99_ms=20.0,
    cost_ratio_mean=1.0,
    cost_ratio_max=1.2,
    mean_length=20.0,
    padded_ratio=0.1,
    ended=40,
    batches=30,
)


def signals(**changes: Any) -> Signals:
    return replace(QUIET, **changes)
