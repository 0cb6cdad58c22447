"""Which products are rounded, to what, and that nobody is harmed by it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supernet.backends.base import backend, load_plan
from supernet.capture.subject import Capture, capture
from supernet.errors import BuildFailed, OutsideRange
from supernet.fidelity import Limit, error, judge
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.quantization import BITS, Rounding, kinds, quantize
from supernet.fusion.lowering.lowering import bind, functional, lower, products
from supernet.fusion.precision.fake_quantization import Emulation
from supernet.fusion.precision.sensitivity import longest_prefix, rank
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.lowered import answers, regions, targets
from tests.supernet.models import noise, seeded

if (why := onednn.unavailable() or onednn.without_int8()) is not None:
    pytest.skip(why, allow_module_level=True)

rounds = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products"
)
ISA = "x86_64-avx512f-avx512_vnni-avx512_bf16"
INT8 = "onednn.qlinear_pointwise.default"


def test_what_pays_depends_on_the_instruction_sets() -> None:
    assert kinds("x86_64-avx512f-avx512_vnni-avx512_bf16-1a2b") == ("bf16", "int8")
    assert kinds("x86_64-avx2-avx_vnni") == ("int8",)
    assert kinds("x86_64-avx2") == ()


@given(st.floats(-1e3, 0.0), st.floats(0.0, 1e3), st.lists(st.floats(0.0, 1.0), min_size=1))
def test_numbers_in_range_come_back_to_half_a_step(
    low: float, high: float, shares: list[float]
) -> None:
    rounding = Rounding("int8", low, high)
    x = torch.tensor([low + share * (high - low) for share in shares], dtype=torch.float32)
    whole = quantize(x, 1 / rounding.scale, rounding.zero)
    back = (whole.float() - rounding.zero) * rounding.scale
    assert (back - x).abs().max() <= 1.01 * rounding.scale + 1e-4 * (high - low)
    assert quantize(torch.zeros(1), 1 / rounding.scale, rounding.zero).item() == rounding.zero
    assert Rounding.from_json(json.loads(json.dumps(rounding.to_json()))) == rounding


def test_numbers_a_little_out_of_range_stop_at_its_ends() -> None:
    x = torch.tensor([-1.015, 1.015])
    assert quantize(x, 255 / 2, 127.5).tolist() == [0, 255]
    many = torch.full((4096,), 100.0)
    many[7] = 290.0  # one in so many does not count
    assert quantize(many, 1.0, 0).max() == 255


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 300.0, -30.0])
@pytest.mark.parametrize("rows", [1, 3])
def test_what_the_range_does_not_hold_is_not_made_a_number_of(bad: float, rows: int) -> None:
    x = torch.full((rows, 2), 50.0)
    x[-1, 1] = bad
    with pytest.raises(OutsideRange, match="within the range"):
        quantize(x, 1.0, 0)


def test_fresh_rows_keep_the_error_or_are_declined(tmp_path: Path) -> None:
    """Of inputs that no reference shows, at several scales: none is answered far off in silence."""
    model = seeded(
        lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh())
    )
    learned = capture(model, (noise(4, 64),))
    limit = Limit("relative_l2", 0.05)
    spec = replace(make_spec(learned, "fused", "mixed", ISA), limit=str(limit))
    backend("fused").build(MemorySource(learned, tmp_path), spec, tmp_path)
    plan = load_plan(tmp_path, spec)
    torch.manual_seed(5)
    declined: dict[float, int] = {}
    for scale in (1.0, 2.0, 100.0):
        rows = scale * torch.randn(400, 64)
        errors = []
        for row in rows:
            try:
                errors.append(error("relative_l2", plan.run([row[None]]), [model(row[None])]))
            except OutsideRange:
                continue
        declined[scale] = len(rows) - len(errors)
        assert max(errors, default=0.0) <= limit.most, scale
    assert declined[1.0] < 60  # 256 numbers were shown
    assert declined[100.0] == 400


@rounds
def test_only_named_products_are_rounded(block: Capture) -> None:
    names = list(products(block.program))
    assert len(names) == 6
    exact = answers(block.program, [[name] for name in names], *block.references[0].inputs)
    for name in names:
        with torch.no_grad():
            module = lower(block.program, [[n] for n in names], {name: Rounding("bf16")}).module
            rounded = list(module(*block.references[0].inputs))
        assert 1e-6 < error("relative_l2", rounded, exact) < 2e-2
        assert targets(module).count("aten.to.dtype") == 2


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_the_emulation_errs_as_the_kernels_do(block: Capture, kind: str) -> None:
    if kind == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 products")
    program = functional(block.program)
    emulation = Emulation(bind(program))
    ranges = emulation.ranges([r.inputs for r in block.references])
    reference = block.references[0]
    for name in products(program):
        rounded = {name: Rounding(kind, *ranges[name])}
        parts = regions(block, program, "qkv")
        real = answers(program, parts, *reference.inputs, rounded=rounded)
        emulated = emulation.answers(reference.inputs, rounded)
        errs = error("relative_l2", real, reference.outputs)
        assert 1e-5 < errs < 0.05
        assert error("relative_l2", emulated, reference.outputs) == pytest.approx(errs, rel=0.3)


def test_products_in_int8_merge_and_take_their_activation_in(block: Capture) -> None:
    program = functional(block.program)
    ranges = Emulation(bind(program)).ranges([r.inputs for r in block.references])
    rounded = {name: Rounding("int8", *ranges[name]) for name in ranges}
    module = lower(program, regions(block, program, "qkv", "activation"), rounded).module
    assert targets(module).count(INT8) == 4
    assert "aten.gelu.default" not in targets(module)
    held = sum(tensor.nbytes for tensor in module.buffers() if tensor.dtype is torch.int8)
    assert held == sum(weight.numel() for weight in products(program).values())


def test_an_answer_in_int8_does_not_depend_on_who_shares_its_batch() -> None:
    learned = capture(seeded(lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU())), (noise(2, 16),))
    program = functional(learned.program)
    (name,) = products(program)
    module = lower(program, [[name]], {name: Rounding("int8", -3.0, 3.0)}).module
    mine = noise(1, 16).clamp(-3.0, 3.0)
    other = -mine.sign() * 3.0
    with torch.no_grad():
        (alone,), (shared,) = module(mine), module(torch.cat([mine, other]))
        with pytest.raises(OutsideRange):
            module(torch.cat([mine, 50 * other]))
    assert torch.equal(alone[0], shared[0])


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 100), min_size=1),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_each_prefix_of_the_ranking_saves_the_most_bits_for_its_error(
    weights: dict[str, int], data: st.DataObject
) -> None:
    """No other choice of precisions saves at least as much for less squared error."""
    square = st.floats(1e-6, 1.0)
    errors = {(name, kind): data.draw(square) for name in weights for kind in ("bf16", "int8")}
    ranking = rank(weights, errors, BITS)

    def saved(chosen: dict[str, str]) -> int:
        return sum(weights[name] * (32 - BITS[kind]) for name, kind in chosen.items())

    def spent(chosen: dict[str, str]) -> float:
        return sum(errors[name, kind] ** 2 for name, kind in chosen.items())

    every = [
        {n: k for n, k in zip(weights, pick, strict=True) if k != "fp32"}
        for pick in itertools.product(("fp32", "bf16", "int8"), repeat=len(weights))
    ]
    for length in range(len(ranking) + 1):
        chosen = dict(ranking[:length])
        better = [c for c in every if saved(c) >= saved(chosen)]
        assert spent(chosen) <= min(map(spent, better)) * (1 + 1e-9) + 1e-15


@given(st.lists(st.floats(0.0, 1.0), max_size=12), st.floats(0.0, 3.0))
def test_the_prefix_taken_is_the_longest_within_the_limit(steps: list[float], most: float) -> None:
    ranking = [(str(i), "bf16") for i in range(len(steps))]
    judged = lambda chosen: sum(steps[: len(chosen)])  # noqa: E731
    taken = longest_prefix(ranking, judged, most)
    assert judged(taken) <= most
    assert len(taken) == len(steps) or judged(ranking[: len(taken) + 1]) > most


@pytest.mark.parametrize("most", [0, 7, 123, 399, 400])
def test_of_a_long_ranking_few_are_tried_and_a_fortieth_may_be_left(most: int) -> None:
    tried: list[int] = []

    def judged(chosen: Mapping[str, str]) -> float:
        tried.append(len(chosen))
        return float(len(chosen))

    taken = longest_prefix([(str(i), "bf16") for i in range(400)], judged, most)
    assert most - 10 < len(taken) <= most
    assert len(tried) <= 6


@rounds
def test_a_mixed_plan_rounds_what_its_limit_bears(block: Capture, tmp_path: Path) -> None:
    taken = []
    for most in (1e-3, 1e-1):
        spec = replace(
            make_spec(block, "fused", "mixed"), isa=ISA, limit=str(Limit("relative_l2", most))
        )
        out = tmp_path / str(most)
        out.mkdir()
        backend("fused").build(MemorySource(block, tmp_path), spec, out)
        taken.append(json.loads((out / "regions.json").read_text())["rounded"])
        plan = load_plan(out, spec)
        pairs = [(plan.run(r.inputs), r.outputs) for r in block.references]
        assert 1e-5 < judge("relative_l2", pairs).worst <= 0.5 * most
        for kind in ("bf16", "int8"):
            count = sum(rounding[0] == kind for rounding in taken[-1].values())
            assert (f"{count} products in {kind}" in (out / "about.txt").read_text()) == (count > 0)
    bits = [sum(32 - BITS[rounding[0]] for rounding in chosen.values()) for chosen in taken]
    assert 0 < bits[0] < bits[1]
    assert "int8" in {rounding[0] for rounding in taken[1].values()}


@rounds
def test_a_limit_that_no_product_bears_is_said(block: Capture, tmp_path: Path) -> None:
    spec = replace(
        make_spec(block, "fused", "mixed"), isa=ISA, limit=str(Limit("relative_l2", 1e-6))
    )
    with pytest.raises(BuildFailed, match="no product can be rounded within relative_l2<=1e-06"):
        backend("fused").build(MemorySource(block, tmp_path), spec, tmp_path)
