"""The kernel answers as torch's attention does, whatever the shape, the layout and the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from supernet.backends.fused_build import plan_of
from supernet.capture.subject import capture
from supernet.fidelity import error
from supernet.fusion.kernels import attention, native
from supernet.fusion.kernels.attention import ATTENTION, SIZES, attend
from supernet.fusion.lowering.lowering import functional
from tests.supernet.lowered import Block

pytestmark = pytest.mark.usefixtures("own_kernels")


def parts(batch: int, heads: int, rows: int, keys: int, size: int) -> list[Tensor]:
    """q, k, v as a merged product gives them: heads between rows, gaps between rows."""
    made = torch.Generator().manual_seed(batch * 1000 + rows * keys)
    whole = torch.randn(3, batch, max(rows, keys), heads * size + 5, generator=made)
    split = whole[..., 5:].unflatten(-1, (heads, size)).transpose(2, 3)
    return [split[0][:, :, :rows], split[1][:, :, :keys], split[2][:, :, :keys]]


def check(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert error("relative_l2", [got], [wanted]) < 2e-6


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    rows=st.integers(1, 70),
    keys=st.integers(1, 70),
    size=st.sampled_from(SIZES),
    kind=st.sampled_from(("plain", "causal", "per key", "per pair", "per head")),
    scale=st.sampled_from((None, 0.3)),
)
def test_it_is_torchs_attention(
    batch: int, heads: int, rows: int, keys: int, size: int, kind: str, scale: float | None
) -> None:
    q, k, v = parts(batch, heads, rows, keys, size)
    sizes = {"per key": (batch, 1, 1, keys), "per pair": (rows, keys),
             "per head": (1, heads, rows, keys)}  # fmt: skip
    mask = torch.randn(sizes[kind]) if kind in sizes else None
    if mask is not None:
        mask[..., keys // 2 + 1 :] = -torch.inf
    wanted = scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal", scale=scale)
    check(attend(q, k, v, mask, 0.0, kind == "causal", scale=scale), wanted)


def test_a_mask_may_lie_in_any_order() -> None:
    q, k, v = parts(2, 2, 9, 20, 32)
    mask = torch.randn(20, 9).T
    check(attend(q, k, v, mask), scaled_dot_product_attention(q, k, v, mask))


def test_scores_far_apart_and_very_negative_masks() -> None:
    q, k, v = parts(1, 2, 30, 40, 64)
    seen = torch.arange(40) < 3
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min).reshape(1, 40)
    check(attend(30 * q, k, v), scaled_dot_product_attention(30 * q, k, v))
    check(attend(q, k, v, mask), scaled_dot_product_attention(q, k, v, mask))


def test_a_row_that_sees_nothing_is_as_torchs() -> None:
    q, k, v = parts(1, 1, 2, 20, 32)
    mask = torch.zeros(2, 20)
    mask[1] = -torch.inf
    wanted = scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(attend(q, k, v, mask), wanted, equal_nan=True)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_a_number_stays_so_and_spoils_no_other_row(which: int) -> None:
    given = parts(2, 1, 12, 20, 32)
    given[which][0, 0, 4, 7] = torch.nan
    wanted = scaled_dot_product_attention(*given)
    got = attend(*given)
    assert torch.equal(got.isnan(), wanted.isnan())
    assert got[0].isnan().any()
    check(got[1:], wanted[1:])


def test_several_threads_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_loaded", [])  # a call of it would fail
    torch.set_num_threads(2)
    try:
        q, k, v = parts(1, 2, 5, 5, 32)
        check(attend(q, k, v), scaled_dot_product_attention(q, k, v))
    finally:
        torch.set_num_threads(1)


class Sized(torch.nn.Module):
    """Attention of heads of one size, as the kernel takes it or not."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> None:
        super().__init__()
        self.size, self.dtype, self.dropout = size, dtype, dropout

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        y = x.to(self.dtype).unflatten(-1, (-1, self.size)).transpose(1, 2)
        return scaled_dot_product_attention(y, y, y, seen, self.dropout)


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        (Sized(32), True),
        (Sized(16), False),
        (Sized(32, torch.float64), False),
        (Sized(32, dropout=0.1), False),
    ],
    ids=["fits", "size", "dtype", "dropout"],
)
def test_only_what_it_takes_is_put_on_it(model: Sized, fits: bool) -> None:
    x, seen = torch.randn(2, 7, 64), torch.ones(7, 7).tril() > 0
    program = torch.export.export(model, (x, seen), strict=False)
    module = program.graph_module
    assert attention.put_in(module) == int(fits)
    assert bool(module.graph.find_nodes(op="call_function", target=ATTENTION)) != fits
    if fits:  # the mask of booleans has become numbers
        check(module(x, seen)[0], model(x, seen))


def test_parts_that_do_not_match_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_loaded", [])  # a call of it would fail
    q, k, v = parts(2, 2, 5, 9, 32)
    check(attend(q, k[:1], v[:1]), scaled_dot_product_attention(q, k[:1], v[:1]))


def test_plans_under_search_use_it() -> None:
    model = Block(width=64).eval()
    x = torch.randn(2, 5, 64)
    program = functional(capture(model, (x,)).program)
    plan = plan_of(program, [], {})
    assert plan._module is not None
    assert plan._module.graph.find_nodes(op="call_function", target=attend)
    check(plan.run([x])[0], model(x))
