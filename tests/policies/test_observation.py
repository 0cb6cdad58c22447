"""The observation's places: one for every signal there is, in one order, under one name."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from policies.observation import ENTRIES, SIGNALS, Signal, encode, observation_names, observe
from profiler.signals import Signals
from tests.policies.observed import QUIET, signals

APART = {"at_s", "arrivals_100ms", "arrivals_10ms"}


def test_every_signal_has_its_place_under_its_own_name() -> None:
    assert {place.name.lower() for place in Signal} == {f.name for f in fields(Signals)} - APART
    assert [int(place) for place in Signal] == list(range(20, SIGNALS)), "right after the arrivals"


def test_a_signal_is_seen_at_its_own_place_and_at_no_other() -> None:
    before = observe(QUIET, 0)
    for place in Signal:
        name = place.name.lower()
        if name == "slo_ms":  # what others are measured by
            continue
        changed = observe(signals(**{name: 0.6 * getattr(QUIET, name) + 0.15}), 0)
        if name in ("ended", "batches"):  # only whether there were any
            changed = observe(signals(**{name: 0}), 0)
        assert np.flatnonzero(before != changed).tolist() == [place]


def test_names_stand_where_the_entries_do() -> None:
    names = observation_names(2)
    assert len(names) == ENTRIES + 2
    assert names[Signal.QUEUE] == "log_queue"
    assert names[Signal.HEAD_SLACK_MS] == "head_slack_over_slo"
    assert names[Signal.FUSED] == "fused"
    seen, raw = np.empty(len(names), np.float32), np.ones(SIGNALS)
    encode(raw, 1, seen)
    logs = [name.startswith("log_arrivals") for name in names]
    assert np.allclose(seen[logs], np.log(2.0))
    assert seen[-2:].tolist() == [0.0, 1.0]
