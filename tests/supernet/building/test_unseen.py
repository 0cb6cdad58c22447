"""Coarse plans are held to their error on rows they were not made with, and bounded by others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supernet.backends.base import backend
from supernet.bounds import Bound, Bounds, features, widest
from supernet.building.confidence import Looked, RowErrors, tail
from supernet.building.reports import joined, judged
from supernet.building.rowwise import answer_unseen
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture, store
from supernet.capture.subject import Capture, capture
from supernet.errors import OutsideRange
from supernet.experiments.unseen import _alike
from supernet.fidelity import Limit, error
from supernet.plans import PlanState
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.models import ids, noise, seeded

LIMIT = Limit("relative_l2", 0.05)


@pytest.mark.parametrize("index", [0.05, 0.3, 1.0])
def test_the_tail_of_some_hundred_errors_tells_the_one_in_a_thousand(index: float) -> None:
    true = 0.01 * 1000.0**index
    rng = np.random.default_rng(0)
    told = np.array([tail(0.01 * rng.random(1024) ** -index) for _ in range(400)])
    assert np.mean(told >= true) > 0.96, "99 times in 100, and at small size a little less"
    assert np.median(told) < (1 + 3 * index) * true


@given(st.lists(st.floats(0.0, 1e3), min_size=1, max_size=60))
def test_the_tail_is_never_below_what_was_seen(errors: list[float]) -> None:
    assert tail(errors) >= max(errors)
    assert tail([*errors, math.inf]) == math.inf


def test_a_tail_beyond_what_a_float_holds_is_infinite() -> None:
    assert tail([0.0, 1e20, 1e21, 1e22]) == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("in_place", [True, False])
def test_usual_rows_stay_near_the_examples_whatever_those_hold(
    dtype: torch.dtype, in_place: bool
) -> None:
    rng = torch.Generator().manual_seed(0)
    for numbers in (
        torch.linspace(-1, 1, 8), torch.ones(5), torch.tensor([2.0]), torch.zeros(4),
        torch.cat([torch.randn(200, generator=rng), torch.full((20,), -1e4)]),
        torch.tensor([1.0, 2.0, math.inf, -math.inf, math.nan, 0.0, 3.0]),
    ):  # fmt: skip
        flat = numbers.to(dtype)
        finite = flat[flat.isfinite()].double()
        reach = 0.31 * max(float(finite.max() - finite.min()), float(finite.abs().max()))
        for _ in range(50):
            drawn = _alike(flat, rng, in_place=in_place)
            assert drawn.dtype is dtype
            good = drawn[drawn.isfinite()].double()
            assert bool((good >= finite.min() - reach).all())
            assert bool((good <= finite.max() + reach).all())
    least = torch.tensor([torch.finfo(dtype).min, *[0.5, 1.0, 1.5] * 5], dtype=dtype)
    assert _alike(least, rng, in_place=in_place).isfinite().all()
    small = torch.cat([_alike(least, rng, in_place=False) for _ in range(20)])
    assert float(small[small > -100].double().abs().median()) < 3, "one outlier widens nothing"


rows = st.lists(
    st.lists(st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1e4)), min_size=2, max_size=2),
    min_size=1, max_size=12,
)  # fmt: skip


@given(rows, rows, st.data())
@settings(max_examples=200, deadline=None)
def test_bounds_hold_all_usual_rows_and_no_strange_one_that_fails(
    usual: list[list[tuple[float, float]]],
    strange: list[list[tuple[float, float]]],
    data: st.DataObject,
) -> None:
    like, unlike = np.array(usual), np.array(strange)
    fails = np.array(data.draw(st.lists(st.booleans(), min_size=len(unlike), max_size=len(unlike))))
    found = widest(like, unlike, fails)
    usual_fails = any(((like.min(0) <= row) & (row <= like.max(0))).all() for row in unlike[fails])
    assert (found is None) == usual_fails
    if found is not None:
        ends = np.array(found)
        within = lambda some: ((ends[..., 0] <= some) & (some <= ends[..., 1])).all((1, 2))  # noqa: E731
        assert within(like).all()
        assert not within(unlike[fails]).any()


def test_features_of_rows_and_of_an_input_without_rows() -> None:
    x = np.array([[1.0, -3.0], [0.0, 0.0], [2.0, 2.0]])
    assert features(x, 0).tolist() == [[3.0, 4.0], [0.0, 0.0], [2.0, 0.0]]
    assert features(x.T, 1).tolist() == features(x, 0).tolist()
    assert features(x, None).tolist() == [[3.0, 5.0]]
    assert features(np.zeros((2, 0)), 0).tolist() == [[0.0, 0.0]] * 2
    assert Bound(0, 0, (1.0, 2.0), (1.0, 2.0), zeros=False).holds([torch.zeros(2, 0)])


def test_bounds_hold_zeros_apart_and_no_nan() -> None:
    bound = Bound(0, 0, size=(0.5, 4.0), spread=(0.0, 8.0), zeros=True)
    held = Bounds((bound,))
    assert held.hold([torch.tensor([[1.0, 2.0], [0.0, 0.0]])])
    assert not held.hold([torch.tensor([[1.0, 2.0], [0.1, 0.0]])])
    assert not held.hold([torch.tensor([[1.0, math.nan]])])
    assert not Bounds((replace(bound, zeros=False),)).hold([torch.zeros(1, 2)])
    assert held.hold([torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)])
    assert Bounds().hold([torch.tensor([[9e9]])])


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(50, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        summed: Tensor = (self.layer(self.table(x)) * mask[..., None]).sum(1)
        return summed


def test_unseen_rows_use_every_id_keep_masks_masks_and_are_the_same_each_time() -> None:
    examples = [(ids(1, n, 20), torch.ones(1, n, dtype=torch.int64)) for n in (6, 9)]
    found = [capture(seeded(Masked), examples).unseen for _ in range(2)]
    assert found[0].masks == (1,)
    assert not found[0].strange
    assert sum(batch.shape.rows for batch in found[0].usual) >= 64
    shown = torch.cat([batch.inputs[0].reshape(-1) for batch in found[0].usual])
    assert set(shown.tolist()) == set(range(50))
    masks = [batch.inputs[1] for batch in found[0].usual]
    assert all(((mask == 1) | (mask == 0)).all() and (mask[:, 0] == 1).all() for mask in masks)
    for one, two in zip(found[0].usual, found[1].usual, strict=False):
        assert all(map(torch.equal, one.inputs, two.inputs))


def test_strange_rows_are_of_all_sizes_and_within_the_guards() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 4)))
    learned = capture(model, (noise(2, 16),))
    looks = np.concatenate([features(b.inputs[0].numpy(), 0) for b in learned.unseen.strange])
    usual = np.concatenate([features(b.inputs[0].numpy(), 0) for b in learned.unseen.usual])
    assert looks[:, 0].max() > 300 * usual[:, 0].max()
    assert 0 < looks[looks[:, 0] > 0, 0].min() < usual[:, 0].min() / 100
    assert (looks[:, 1] == 0).any()
    assert (looks[:, 0] == 0).any()
    for batch in (*learned.unseen.usual, *learned.unseen.strange):
        learned.check(batch.inputs)
        assert torch.allclose(batch.outputs[0], model(batch.inputs[0]), rtol=1e-4, atol=1e-4)


def test_a_model_without_a_program_needs_no_unseen_rows() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x - 1

    assert not capture(Branching().eval(), (noise(1, 4),)).unseen.usual


def stored(tmp_path: Path, learned: Capture) -> StoredCapture:
    return StoredCapture.read(store(ArtifactCache(tmp_path / "cache"), learned))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh())


def normed() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 8))


@pytest.mark.parametrize(
    ("make", "width", "engine", "precision"),
    [
        (mlp, 64, "fused", "mixed"),
        (mlp, 64, "onnxruntime", "int8"),
        (normed, 32, "openvino", "bf16"),
        (lambda: nn.Linear(6, 3), 6, "openvino", "bf16"),
    ],
)
def test_what_the_bounds_hold_keeps_the_error(
    make: object, width: int, engine: str, precision: str, tmp_path: Path
) -> None:
    """Of rows of all sizes that nobody has seen, at most one in a thousand is over the limit."""
    made, isa = backend(engine), "x86_64-avx512f-avx512_vnni-avx512_bf16"
    if made.unavailable() or precision not in made.precisions(isa):
        pytest.skip(f"no {precision} of {engine} here")
    model = seeded(make)  # type: ignore[arg-type]
    learned = capture(model, (noise(4, width),))
    spec = replace(make_spec(learned, engine, precision, isa), limit=str(LIMIT))
    out = tmp_path / "plan"
    out.mkdir()
    made.build(MemorySource(learned, tmp_path), spec, out)
    plan = made.load(out, spec)
    shares: list[float] = []
    found = answer_unseen(plan, stored(tmp_path, learned), shares.append)
    assert shares == sorted(shares)
    found = RowErrors.from_json(json.loads(json.dumps(found.to_json())))
    bounds = found.bounds(LIMIT)
    if found.error(LIMIT.metric) > LIMIT.most or bounds is None:
        return  # such a plan never serves
    torch.manual_seed(9)
    over = answered = usual = 0
    for scale in (1.0, 1.0, 1e-3, 30.0, 3e3):
        for x in scale * torch.randn(600, 1, width):
            if not bounds.hold([x]):
                continue
            try:
                got = plan.run([x if plan.arrays == "torch" else x.numpy()])
            except OutsideRange:
                continue
            answered += 1
            usual += scale == 1.0
            over += error("relative_l2", got, [model(x).detach()]) > LIMIT.most
    assert usual > 900
    assert over <= answered / 1000 + 1


def looked(errors: list[float], sizes: list[float]) -> Looked:
    return Looked([[[size, 2 * size]] for size in sizes], {"relative_l2": errors, "cosine": errors})


def report(rows: RowErrors | None) -> dict[str, object]:
    return {
        "errors": {name: [0.01, 0.01] for name in ("relative_l2", "cosine", "top1")},
        "rows": rows and rows.to_json(), "costs_ms": [[1, 1, 1.0]], "microbatches": None,
        "memory_mib": 1.0, "about": "", "examples": 1, "up_to_ms": 0.0,
    }  # fmt: skip


def test_a_verdict_counts_unseen_rows_and_bounds_the_plan(tmp_path: Path) -> None:
    learned = capture(seeded(lambda: nn.Linear(4, 2)), (noise(2, 4),))
    spec, cache = make_spec(learned, "fused", "mixed"), ArtifactCache(tmp_path)
    usual = looked([0.01] * 40, [1.0 + i / 40 for i in range(40)])
    exact = judged(cache, spec, LIMIT, report(None))
    assert (exact.state, exact.bounds) == (PlanState.VERIFIED, None)
    far = RowErrors([(0, 0)], usual, looked([0.01, 0.3, 0.01], [5.0, 50.0, 0.1]))
    bounded = judged(cache, spec, LIMIT, report(far))
    assert bounded.state is PlanState.VERIFIED
    assert bounded.bounds == Bounds((Bound(0, 0, (0.1, 5.0), (0.2, 100.0), True),))
    near = RowErrors([(0, 0)], usual, looked([0.3], [1.5]))
    refused = judged(cache, spec, LIMIT, report(near))
    assert refused.state is PlanState.QUARANTINED
    assert "error 0.3 is over" in refused.reason
    heavy = looked([0.01 * (i / 40) ** -0.6 for i in range(1, 41)], [1.0] * 40)
    assert judged(cache, spec, LIMIT, report(RowErrors([(0, 0)], heavy))).error > 0.1
    assert judged(cache, spec, Limit("relative_l2", 0.5), report(near)).state is PlanState.VERIFIED
    both = joined(report(far), report(near), stored(tmp_path, learned), 1.0)
    assert judged(cache, spec, LIMIT, both).state is PlanState.QUARANTINED


def test_inputs_that_are_always_zero_and_plans_that_decline_all_usual_rows() -> None:
    """A first state of zeros has no size; what was never seen to work is not trusted."""
    zeros = looked([0.01] * 20, [0.0] * 20)
    fine = RowErrors([(0, 0)], zeros, looked([0.01, 0.01], [1.0, 2.0])).bounds(LIMIT)
    assert fine is not None
    assert fine.hold([torch.ones(1, 2) * torch.tensor([1.0, -1.0])])
    bad = RowErrors([(0, 0)], zeros, looked([0.3, 0.01], [1.0, 0.5])).bounds(LIMIT)
    assert bad is not None
    assert not bad.hold([torch.tensor([[1.0, -1.0]])])
    assert bad.hold([torch.zeros(1, 2)])
    assert RowErrors([(0, 0)], Looked(), looked([0.3], [1.0])).bounds(LIMIT) is None
