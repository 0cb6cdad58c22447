"""What counts as the same live answer: rounding does, a small fault beside large ones does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from supernet.experiments.agreement import difference, noise_of
from supernet.experiments.noise import RUNS, noisy_answers

T = torch.tensor


def found(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> str:
    return str(difference(got, want))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_few_units_in_the_last_place_are_the_same_answer(dtype: torch.dtype) -> None:
    want = torch.randn(4, 30, dtype=torch.float64).to(dtype)
    got = want + 4 * torch.finfo(dtype).eps * want.abs().mean() * torch.sign(want)
    assert difference([got], [want]) is None


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (T([[1e6, 1.0], [2.0, 3.5]]), T([[1e6, 1.0], [2.0, 3.0]]), "at (1, 1) is 3.5 where"),
        (T([7, 8]), T([7, 9]), "at (1,) is 8 where the model alone gives 9"),
        (T([True]), T([False]), "is True where the model alone gives False"),
        (T([1.0, float("nan")]), T([1.0, 2.0]), "is nan where the model alone gives 2"),
        (T([1.0, 2.0]), T([1.0, float("nan")]), "is 2 where the model alone gives nan"),
        (T([-float("inf")]), T([float("inf")]), "is -inf where the model alone gives inf"),
        (T([1.0 + 1e-2j]), T([1.0 + 0j]), "at (0,) is"),
        (T([0.0]), T([-1.0]), "is 0 where the model alone gives -1"),
        (T([1.0, 2.0]), T([1.0]), "(2,) where the model alone gives torch.float32 (1,)"),
        (T([1]), T([1.0]), "torch.int64 (1,) where the model alone gives torch.float32 (1,)"),
    ],
)  # fmt: skip
def test_what_differs_is_named(got: torch.Tensor, want: torch.Tensor, says: str) -> None:
    assert says in found([got], [want])


def test_equal_infinities_and_nans_are_the_same() -> None:
    odd = T([float("nan"), float("inf"), -float("inf"), 1.0])
    assert difference([odd], [odd.clone()]) is None
    assert difference([torch.zeros(0, 3)], [torch.zeros(0, 3)]) is None
    assert difference([T(2.0)], [T(2.0)]) is None


def test_one_position_among_many_and_a_small_output_beside_a_large_one_show() -> None:
    states = torch.randn(1, 512, 384)
    spoilt = states.clone()
    spoilt[0, 300] *= 1.01
    assert "(0, 300," in found([spoilt], [states])
    assert found([states * 1e6, T([0.5])], [states * 1e6, T([0.501])]).startswith(
        "output 1 at (0,)"
    )


def test_a_missing_output_is_a_difference() -> None:
    assert difference([], [T([1.0])]) is not None


def accused(
    model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, got: torch.Tensor
) -> bool:
    want = [model(x)]
    runs = list(noisy_answers(lambda: [model(x)]))
    return difference([got], want, noise=noise_of(runs, want)) is not None


def nearly_one(x: torch.Tensor) -> torch.Tensor:
    return 1 - torch.sigmoid(x)


def test_what_rounding_alone_decides_is_not_held_against_an_answer() -> None:
    x = torch.full((1,), 15.0)  # 1 - sigmoid is 3.06e-7, five steps of float32
    other = torch.full((1,), 2.4e-7)
    assert difference([other], [nearly_one(x)]) is not None
    assert not accused(nearly_one, x, other)
    assert accused(nearly_one, x, torch.full((1,), 1e-3))


def test_a_tie_may_fall_either_way_and_another_token_may_not() -> None:
    weight = torch.linalg.qr(torch.randn(8, 8))[0][:6]
    weight[4] = weight[2] * (1 + 1e-7)
    x = weight[2:3] * 3

    def token(x: torch.Tensor) -> torch.Tensor:
        return (x @ weight.T).argmax(-1)

    ties = {2, 4}
    assert int(token(x)) in ties
    assert not any(accused(token, x, torch.tensor([tie])) for tie in ties)
    assert accused(token, x, torch.tensor([0]))


def test_as_many_detections_as_the_threshold_lets_through_by_rounding() -> None:
    def detect(x: torch.Tensor) -> torch.Tensor:
        return x[(x * 0.1).sum(-1) > 0.3]

    edge = torch.tensor([[1.0, 1.0, 1.0]])
    assert not accused(detect, edge, torch.zeros(0, 3))
    assert not accused(detect, edge, edge)
    clear = torch.tensor([[5.0, 1.0, 1.0]])
    assert accused(detect, clear, torch.zeros(0, 3))


def test_disturbing_leaves_counts_and_choices_alone() -> None:
    mask = torch.ones(3, 7)

    def last(mask: torch.Tensor) -> torch.Tensor:
        return mask.sum(1).long() - 1 + (mask == mask.amax(1, keepdim=True)).long().sum(1)

    assert all(torch.equal(run[0], last(mask)) for run in noisy_answers(lambda: [last(mask)]))


def test_fused_operators_are_disturbed_too() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(1, 5, 16)
    with torch.no_grad():
        want = layer(x)
    apart = [(run[0] - want).abs().max() for run in noisy_answers(lambda: [layer(x)])]
    assert all(1e-7 < float(most) < 1e-3 for most in apart)


def test_nothing_of_the_process_is_touched() -> None:
    state, seen = torch.get_rng_state(), []

    def model() -> list[torch.Tensor]:
        seen.append(is_in_torch_dispatch_mode())
        return [torch.ones(3).mean(0, keepdim=True)]

    assert len(list(noisy_answers(model))) == len(seen) == RUNS
    assert torch.equal(state, torch.get_rng_state())
    assert not any(seen)
