"""The day that the demo sends, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import evolve
from evolve.demo.day import HOURS, Day, Lived, agrees, live, part
from evolve.demo.day_picture import draw
from evolve.demo.load import Outcome

TEXTS = [{"input": torch.full((1, 8), float(i))} for i in range(3)]


def test_a_day_is_quiet_at_night_and_busiest_at_its_peaks() -> None:
    day = Day.of(TEXTS, 240.0, 100.0, seed=1)
    counts = np.histogram(day.sent_s, np.linspace(0.0, 240.0, 25))[0]
    expected = np.array(HOURS) * 100.0 * 10.0
    assert np.all(np.abs(counts - expected) <= 6.0 * np.sqrt(expected))
    assert np.all(np.diff(day.sent_s) >= 0)


def test_what_became_of_each_request_is_known(
    runtime: evolve.Runtime, mlp: torch.nn.Module
) -> None:
    day = Day.of(TEXTS, 0.5, 100.0, seed=0, hours=(1.0,))
    heard: list[float] = []
    lived = live(runtime, mlp, day, heard.append)
    assert lived.failed == 0
    assert lived.names == ("",)
    assert set(lived.by.tolist()) == {0}, "the model itself answered all"
    assert lived.agreement.keys() == set(range(len(day.sent_s))), "few enough to look at each"
    assert min(lived.agreement.values()) == pytest.approx(1.0, abs=1e-5)


def test_agreement_is_that_of_the_output_that_agrees_least(mlp: torch.nn.Module) -> None:
    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return mlp(x), x

    request = {"x": TEXTS[1]["input"]}
    with torch.no_grad():
        first, second = Both()(**request)
    turned = torch.stack([second[0, 1], -second[0, 0]] * 4).reshape(1, 8)
    assert agrees(Both(), request, (first, turned)) == pytest.approx(0.0, abs=1e-6)
    assert agrees(Both(), request, (first, second)) == pytest.approx(1.0)


def lived_through() -> Lived:
    sent_s = np.array([0.1, 0.2, 0.3, 1.1, 1.2])
    no = np.zeros(5, np.bool_)
    outcome = Outcome(
        sent_s, np.array([10.0, 60.0, np.nan, 20.0, 30.0]),
        np.array([False, False, True, False, False]), no, {}, (),
    )  # fmt: skip
    return Lived(outcome, ("", "small"), np.array([0, 0, -1, 1, 0]), {0: 1.0, 3: 0.9, 4: 1.0})


def test_a_part_of_the_day_is_told_by_itself() -> None:
    morning, evening = (part(lived_through(), 50.0, begin_s, begin_s + 1.0) for begin_s in (0, 1))
    assert (morning["met"], morning["by_tiers"]) == (pytest.approx(1 / 3), 0.0)
    assert (evening["met"], evening["by_tiers"]) == (1.0, 0.5)
    assert evening["agreement"] == pytest.approx(0.95)
    assert (morning["offered_per_s"], evening["offered_per_s"]) == (3.0, 2.0)
    assert part(lived_through(), 50.0, 5.0, 6.0) == {}


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    lived = lived_through()
    day = Day(TEXTS, lived.outcome.sent_s, 2.0)
    draw(tmp_path / "day.png", lived, day, evolve.SLO(50.0, min_quality=0.8), [])
    assert (tmp_path / "day.png").read_bytes().startswith(b"\x89PNG")
