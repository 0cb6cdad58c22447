"""Whether sub-networks agree with the original: found soon, and hardly by mistake."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evolve.control_plane.low_quality import known_low, remember_low
from evolve.watch.live_agreement import MISTAKE, Agreement, LiveAgreements
from supernet.cache import ArtifactCache
from tests.evolve.watched import Service, signature

ROWS = signature([("rows", 4)], [("rows", 4)])


def until_below(draw: Callable[[], float], least: float, most: int = 3_000) -> Agreement:
    one = Agreement()
    while not one.is_below and one.samples < most:
        one = one.after(draw(), least)
    return one


@pytest.mark.parametrize("least", [0.98, 0.9, 0.5])
def test_what_is_good_enough_is_hardly_ever_taken_out(least: float) -> None:
    """At the very mean that is asked, two-valued or not, looked at after each answer."""
    rng, wrong, runs = random.Random(1), 0, 400
    for _ in range(runs):
        wrong += until_below(lambda: float(rng.random() < least), least, 400).is_below
        wrong += until_below(
            lambda: rng.betavariate(20 * least, 20 * (1 - least)), least, 400
        ).is_below
    assert wrong <= 2 * runs * MISTAKE + 3


@pytest.mark.parametrize(("mean", "within"), [(0.5, 20), (0.9, 40), (0.97, 1_500)])
def test_what_is_not_is_found_within_few_answers(mean: float, within: int) -> None:
    rng = random.Random(2)
    for _ in range(20):
        found = until_below(lambda: rng.betavariate(20 * mean, 20 * (1 - mean)), 0.98)
        assert found.is_below
        assert found.samples <= within
        assert found.mean < 0.98


def test_one_bad_answer_takes_nothing_out() -> None:
    one = Agreement()
    for x in (0.0, *[1.0] * 200):
        one = one.after(x, 0.98)
        assert not one.is_below
    assert one.mean == pytest.approx(200 / 201)


def test_a_verdict_is_final() -> None:
    one = until_below(lambda: 0.5, 0.98)
    for _ in range(1_000):
        one = one.after(1.0, 0.98)
    assert one.is_below


def half(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Answers of a sub-network: right for small numbers, turned for large ones."""
    x = leaves[0]
    return [torch.where(x.abs().amax(1, keepdim=True) > 10, x.flip(1), x)]


def served(**changes: object) -> Service:
    return Service(nn.Identity(), ROWS, [torch.ones(1, 4)], engine=half, subnet="half", **changes)  # type: ignore[arg-type]


def drawn(seed: int, scale: float = 1.0) -> list[Tensor]:
    return [scale * torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))]


def test_answers_of_a_sub_network_are_judged_by_agreement_and_not_by_their_error() -> None:
    def near(leaves: Sequence[Tensor]) -> list[Tensor]:
        return [leaves[0] * 1.3]  # 30 % off, at no angle

    one = Service(nn.Identity(), ROWS, [torch.ones(1, 4)], engine=near, subnet="half")
    for seed in range(50):
        one.run(drawn(seed))
    assert one.look() == []
    assert one.agreements.of("half").samples > 30
    assert one.agreements.of("half").mean == pytest.approx(1.0)


def test_inputs_on_which_it_is_bad_take_out_the_whole_tier_with_the_figures() -> None:
    one = served()
    for seed in range(20):
        one.run(drawn(seed))
    assert one.look() == []
    seed = 0
    while not one.verdicts and seed < 300:
        one.run(drawn(seed, scale=100.0))
        one.look()
        seed += 1
    (verdict,) = one.verdicts[:1]
    assert verdict.cause == "tier"
    seen = one.agreements.of("half")
    assert seen.mean < 0.9
    assert f"'half' agrees {seen.mean:.4f} with the original" in verdict.why
    assert "below min_quality 0.9 but for a chance of 0.001" in verdict.why


def test_each_sub_network_is_judged_by_its_own_answers() -> None:
    kept = LiveAgreements("top1", 0.9)
    good, bad = [torch.tensor([[1.0, 2.0]])], [torch.tensor([[2.0, 1.0]])]
    for _ in range(30):
        assert kept.add("good", good, good) is None
        kept.add("bad", bad, good)
    assert kept.of("bad").is_below
    assert kept.of("good").mean == 1
    kept.forget("bad")
    assert kept.of("bad").samples == 0


def test_an_answer_where_the_model_raises_is_no_ones(tmp_path: Path) -> None:
    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.abs().max() > 10:
                raise ValueError("too large")
            return x

    one = Service(Strict(), ROWS, [torch.ones(1, 4)], engine=half, subnet="half")
    one.run([torch.full((1, 4), 99.0)])
    one.look()
    (verdict,) = one.verdicts
    assert (verdict.cause, "ValueError: too large" in verdict.why) == ("tier", True)


def test_what_was_found_is_remembered_for_those_who_ask_as_much(tmp_path: Path) -> None:
    cache, kept = ArtifactCache(tmp_path / "cache"), LiveAgreements("cosine", 0.9)
    a, b = [torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]
    for _ in range(30):
        kept.add("half", a, b)
    assert known_low(cache, "ab" * 32, "cosine", 0.9) is None
    remember_low(cache, "ab" * 32, "half", kept)
    for least in (0.9, 0.95):
        assert "found earlier: 'half' agrees 0.0000" in str(
            known_low(cache, "ab" * 32, "cosine", least)
        )
    assert known_low(cache, "ab" * 32, "cosine", 0.8) is None
    assert known_low(cache, "ab" * 32, "top1", 0.9) is None
    assert known_low(cache, "cd" * 32, "cosine", 0.9) is None
