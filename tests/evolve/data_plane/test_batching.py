"""Stacking and splitting are inverse to each other, whatever the mix of rows and lengths."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evolve.data_plane.batching import plausible, split, stack
from evolve.data_plane.request_queue import Request
from supernet.domain.engine import Domain
from supernet.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec("x", "float32", ("rows", "length", 3)),
        TensorSpec("scale", "float32", ("rows", 2)),
    ),
    outputs=(
        TensorSpec("y", "float32", ("rows", "length", 3)),
        TensorSpec("s", "float32", ("rows", 2)),
        TensorSpec("table", "float32", (4,)),
    ),
    batchable=True,
    paddable=True,
)


def request(rows: int, length: int, seed: int) -> Request:
    rng = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(rows, length, 3, generator=rng), torch.randn(rows, 2, generator=rng)]
    return Request((), {}, leaves, rows, length, 0, 0, 0.0, 1.0, True)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=6),
    room=st.integers(0, 4),
)
def test_each_request_gets_its_own_rows_at_its_own_length(
    sizes: list[tuple[int, int]], room: int
) -> None:
    requests = [request(rows, length, i) for i, (rows, length) in enumerate(sizes)]
    length = max(r.length for r in requests) + room
    x, scale = stack(requests, SIGNATURE, length)
    assert x.shape == (sum(r.rows for r in requests), length, 3)
    table = torch.arange(4.0)
    answers = split([x * 2, scale + 1, table], requests, SIGNATURE, length)
    for one, (y, s, t) in zip(requests, answers, strict=True):
        assert torch.equal(y, one.leaves[0] * 2)
        assert torch.equal(s, one.leaves[1] + 1)
        assert torch.equal(t, table)


def test_padding_is_zero() -> None:
    x, _ = stack([request(1, 2, 0), request(1, 5, 1)], SIGNATURE, 8)
    assert not x[0, 2:].any()
    assert not x[1, 5:].any()


def test_a_transposed_input_becomes_contiguous() -> None:
    one = request(2, 4, 0)
    one.leaves[0] = one.leaves[0].transpose(0, 1).contiguous().transpose(0, 1)
    x, _ = stack([one], SIGNATURE, 4)
    assert x.is_contiguous()
    assert torch.equal(x, one.leaves[0])


def test_finite_means_every_entry() -> None:
    fine = torch.full((3,), 3e38)  # the sum overflows, no entry does
    usual = Domain()
    assert plausible([fine, torch.tensor([1, 2])], usual)
    assert not plausible([fine, torch.tensor([1.0, float("nan")])], usual)
    assert not plausible([torch.tensor([float("-inf"), 1.0])], usual)
    for size in (8192, 8193):  # on both sides of what is summed
        for wrong in (float("nan"), float("inf")):
            long = torch.ones(size, 2)[:, 0]  # not contiguous
            assert plausible([long], usual)
            long[-1] = wrong
            assert not plausible([long], usual)
    assert plausible([], usual)


def test_what_the_model_itself_gives_is_plausible_where_it_gives_it() -> None:
    masked, lost = torch.tensor([float("-inf"), 1.0]), torch.tensor([float("nan"), 1.0])
    policy = Domain(infinite=(True, False), nan=(False, False))
    assert plausible([masked, torch.ones(1)], policy)
    assert not plausible([torch.ones(1), masked], policy)
    assert not plausible([lost, torch.ones(1)], policy)
    assert plausible([lost], Domain(infinite=(False,), nan=(True,)))
