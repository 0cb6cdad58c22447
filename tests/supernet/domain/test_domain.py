"""What an engine computes otherwise than the model is never served.

Each case is a tiny model, tame examples and hostile requests. A request is answered as the service
would: by the original where a guard turns it away or the backend may not be built, else by a plan,
or by the original again where the plan raises. The right answer is always the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from supernet.backends.base import backend
from supernet.capture.subject import Capture, capture
from supernet.errors import OutsideCapture
from supernet.guards import Finite, Guard, Within
from supernet.proposals import unavailable
from tests.supernet.contract import MemorySource, make_spec, run
from tests.supernet.models import Attention, Wrapped, ids, seeded, text

NAN, INF = float("nan"), float("inf")
INT_MIN = -(2**63)


@dataclass(frozen=True)
class Case:
    """A model, calls that stand for its traffic, and calls that do not."""

    model: Callable[..., Any]
    examples: Sequence[tuple[Tensor, ...]]
    hostile: Sequence[tuple[Tensor, ...]]
    parts: dict[str, nn.Module] = field(default_factory=dict)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Wrapped(self.model, **self.parts).eval()


def whole(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.int64)


def real(*values: float) -> Tensor:
    return torch.tensor([values])


def table(rows: int, width: int = 4) -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"table": nn.Embedding(rows, width), "mix": nn.Linear(width, width)}


TAME = [(whole(1, 2, 3, 4),), (whole(4, 3, 2, 1),)]
FLOATS = [(real(1.0, 2.0, -3.0, 0.5),), (real(0.1, -0.2, 0.3, 0.7),)]
NOT_FINITE = [
    (real(NAN, 1.0, -2.0, 3.0),),
    (real(INF, -INF, 2.0, 3.0),),
    (real(NAN, NAN, NAN, NAN),),
]

CASES: dict[str, Case] = {
    # Errors: an index outside the table is the model's own error.
    "embedding": Case(
        lambda m, i: m.mix(m.table(i)),
        TAME,
        [(whole(0, -1, 2, 3),), (whole(6, 0, 0, 0),), (whole(5, 0, 5, 0),), (whole(10**9, 1),)],
        table(6),
    ),
    "index that wraps": Case(
        lambda m, i: m.table.weight[i], TAME,
        [(whole(-1, -6, 0, 5),), (whole(-7, 0, 0, 0),), (whole(6, 0, 0, 0),), (whole(10**6, 0),)],
        table(6),
    ),
    "index_select": Case(
        lambda m, i: m.table.weight.index_select(0, i.reshape(-1)).reshape(*i.shape, -1), TAME,
        [(whole(-1, 0, 0, 0),), (whole(6, 0, 0, 0),)], table(6),
    ),
    "gather": Case(
        lambda m, x, i: x.gather(1, i), [(real(1.0, 2, 3, 4), whole(0, 3, 2, 1))],
        [(real(1.0, 2, 3, 4), whole(-1, 0, 0, 0)), (real(1.0, 2, 3, 4), whole(4, 0, 0, 0))],
    ),
    "one_hot": Case(
        lambda m, i: F.one_hot(i, 6).float(), TAME, [(whole(-1, 0, 0, 0),), (whole(6, 0, 0, 0),)]
    ),
    "shifted ids": Case(
        lambda m, i: m.table(i * 2 + 3), [(whole(1, 2),), (whole(0, 1),)],
        [(whole(-2, 0),), (whole(-1, 3),), (whole(4, 0),)], table(10),
    ),
    "unknown ids": Case(
        lambda m, i: m.table(torch.where(i < 6, i, torch.zeros_like(i))), TAME,
        [(whole(6, 7, 8, 10**12),), (whole(-1, 0, 0, 0),)], table(6),
    ),
    "clamped ids": Case(
        lambda m, i: m.table(i.clamp(0, 5)), TAME, [(whole(-5, 7, 2**40, INT_MIN),)], table(6)
    ),
    "an index from floats": Case(
        lambda m, x: m.table((x * 5).long()), [(real(0.1, 0.9, 0.5, 0.0),)],
        [(real(1.3, 0.0, 0, 0),), (real(-0.3, 0, 0, 0),), (real(NAN, 0, 0, 0),)], table(6),
    ),
    "last of a mask": Case(
        lambda m, i, k: m.table(i)[torch.arange(i.shape[0]), k.sum(1) - 1],
        [text(2, 5), text(1, 9)],
        [(whole(1, 2, 3), whole(0, 0, 0)), (whole(1, 2, 3), whole(5, 5, 5))], table(50),
    ),
    # What the model itself asserts of its numbers.
    "asserted contents": Case(
        lambda m, x: (torch._assert_async((x.abs() < 20).all(), "x must be small"), m.mix(x))[1],
        FLOATS, [(real(1.0, 50.0, 2, 3),), (real(-21.0, 0, 0, 0),)], table(4),
    ),
    "checked number": Case(
        lambda m, x: (torch._check((x.abs() > 20).sum().item() < 1), m.mix(x))[1],
        FLOATS, [(real(1.0, 50.0, 2, 3),), (real(-21.0, 0, 0, 0),)], table(4),
    ),
    # Integers that need more than 32 bits.
    "hashed ids": Case(
        lambda m, i: m.table(i % 6), TAME, [(whole(2**40 + 3, -7, 2**33, INT_MIN),)], table(6)
    ),
    "time stamps": Case(
        lambda m, i: (i // 1000).float() * 1e-6 + m.mix(i.float() * 1e-9), TAME,
        [(whole(1732752000123, 0, -1, 5),)], table(6),
    ),
    "products": Case(lambda m, i: i * i, TAME, [(whole(70_000, -70_000, 2**33, 3),)]),
    "comparisons": Case(
        lambda m, i: (i == 1, i > 2, i != 0), TAME, [(whole(2**32 + 1, 2**32, -(2**33), 1),)]
    ),
    "extremes of integers": Case(
        lambda m, i: (i.clamp(-3, 100), i.amax(1), torch.maximum(i, -i), i.sign()), TAME,
        [(whole(2**31 + 5, -(2**31) - 9, 7, -7),)],
    ),
    "division of negatives": Case(
        lambda m, i: (i // 3, i % 3, torch.div(i, 3, rounding_mode="trunc"), torch.fmod(i, 3)),
        TAME,
        [(whole(-7, -8, 2**25 + 1, 2**31 - 2),)],
    ),
    "division by an input": Case(
        lambda m, i, j: i // j, [(whole(7, 8), whole(2, 3))],
        [(whole(7, 8), whole(0, 3)), (whole(-7, 8), whole(2, -3)), (whole(2**40, 1), whole(1, 1))],
    ),
    "remainders of very large integers": Case(
        lambda m, i: torch.fmod(i, 7), TAME, [(whole(1732752000123456789, -(2**53) - 3, 7, -1),)]
    ),
    "quotients of very large integers": Case(
        lambda m, i: torch.div(i, 7, rounding_mode="trunc"), TAME,
        [(whole(1732752000123456789, -(2**53) - 3, 7, -1),)],
    ),
    "members of a list": Case(
        lambda m, i: torch.isin(i, torch.tensor([3, 2**33 + 3])), TAME,
        [(whole(3, 2**32 + 3, 2**33 + 3, -3),)],
    ),
    "shifts": Case(lambda m, i: ((i << 40) >> 38, i >> 1), TAME, [(whole(-7, 2**31, 5, 1),)]),
    "flags in a wide integer": Case(
        lambda m, k: (1 - k).float() * -1e9, [(whole(1, 0, 1),), (whole(1, 1, 1),)],
        [(whole(2**32, 2**32 + 1, 1),), (whole(7, -1, 0),)],
    ),
    # Narrow and wide dtypes.
    "bytes": Case(
        lambda m, x: (x + x, x * 3, x.float() / 255), [(whole(1, 2, 3).to(torch.uint8),)],
        [(whole(255, 128, 0).to(torch.uint8),)],
    ),
    "signed bytes": Case(
        lambda m, x: (x + x, -x, x.abs()), [(whole(1, 2, 3).to(torch.int8),)],
        [(whole(127, -128, -1).to(torch.int8),)],
    ),
    "doubles": Case(
        lambda m, x: (x * x + 1e-12, x > 1.0000000001), [(real(1, 2, 3).double(),)],
        [(torch.tensor([[1e-300, 1 + 1e-12, 1e300]], dtype=torch.float64),)],
    ),
    "casts of large floats": Case(
        lambda m, x: x.long(), [(real(1.5, -2.5, 3.0),)], [(real(3e9, -3e9, 1e12),)]
    ),
    # NaN and infinities.
    "relu": Case(lambda m, x: F.relu(m.mix(x)), FLOATS, NOT_FINITE, table(4)),
    "maximum": Case(lambda m, x: m.mix(x).max(dim=1)[0], FLOATS, NOT_FINITE, table(4)),
    "convolution": Case(
        lambda m, x: F.max_pool1d(F.relu(m.conv(x[:, None])), 2), FLOATS, NOT_FINITE,
        {"conv": nn.Conv1d(1, 2, 2)},
    ),
    "missing values": Case(
        lambda m, x: m.mix(torch.nan_to_num(x)), [(real(1.0, NAN, 2.0, 0.5),)],
        [(real(NAN, INF, -INF, 1.0),), (real(NAN, NAN, NAN, NAN),)], table(4),
    ),
    "a quotient that is not defined": Case(
        lambda m, x: F.relu(x / x.sum(1, keepdim=True)), FLOATS, [(real(0.0, 0.0, 0.0, 0.0),)]
    ),
    "a root of negatives": Case(
        lambda m, x: torch.where(x.sqrt() > 1, 1.0, 2.0), [(real(4.0, 1.0, 2.0, 9.0),)],
        [(real(-1.0, 4.0, -4.0, 0.0),)],
    ),
    "a logarithm of 0": Case(
        lambda m, x: x.log(), [(real(1.0, 2.0, 3.0, 4.0),)], [(real(0.0, 1.0, 0.0, -1.0),)]
    ),
    "a masked maximum": Case(
        lambda m, x, k: x.masked_fill(k == 0, -INF).amax(1), [(real(1.0, 2, 3), whole(1, 1, 0))],
        [(real(1.0, 2, 3), whole(0, 0, 0))],
    ),
    "a masked policy": Case(
        lambda m, x, k: m.mix(x).masked_fill(~k, -INF), [(FLOATS[0][0], whole(1, 0, 1, 1) > 0)],
        [(FLOATS[1][0], whole(0, 0, 0, 0) > 0), (FLOATS[1][0], whole(1, 0, 0, 0) > 0)], table(4),
    ),
}  # fmt: skip


MASKED = {
    "boolean": lambda m, x, k: F.scaled_dot_product_attention(
        m.mix(x), x, x, attn_mask=(k > 0)[:, :, None] & (k > 0)[:, None, :]
    ),
    "float": lambda m, x, k: F.scaled_dot_product_attention(
        m.mix(x), x, x, attn_mask=torch.where((k > 0)[:, None, :], 0.0, -INF)
    ),
    "by hand": lambda m, x, k: (
        (m.mix(x) @ x.transpose(1, 2)).masked_fill((k == 0)[:, None, :], -INF).softmax(-1) @ x
    ),
    "relu after": lambda m, x, k: F.relu(
        F.scaled_dot_product_attention(m.mix(x), x, x, attn_mask=(k > 0)[:, None, :])
    ),
}
for name, attention in MASKED.items():
    torch.manual_seed(2)
    rows = torch.randn(1, 3, 4)
    CASES[f"attention, {name}"] = Case(
        attention, [(rows, whole(1, 1, 0)), (rows, whole(1, 1, 1))],
        [(rows, whole(0, 0, 0)), (rows, whole(0, 1, 0)), (rows, whole(0, 0, 1))], table(4),
    )  # fmt: skip


# What is fused into a product or a convolution must not hide a NaN that arises before it.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "hardswish": F.hardswish,
    "leaky relu": F.leaky_relu, "elu": F.elu, "clamp": lambda x: x.clamp(-1, 1),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]), "softmax": lambda x: x.softmax(-1),
}  # fmt: skip
for name, activation in ACTIVATIONS.items():
    CASES[f"{name} after a product of logarithms"] = Case(
        lambda m, x, activation=activation: activation(m.mix(x.log())),
        [(real(1.0, 2.0, 3.0, 4.0),)],
        [(real(0.0, 1.0, 2.0, 3.0),), (real(-1.0, 1.0, 2.0, 3.0),), (real(1e6, 1e6, 1e-6, 1.0),)],
        table(4),
    )  # fmt: skip
    CASES[f"{name} after a convolution of roots"] = Case(
        lambda m, x, activation=activation: activation(m.conv(x[:, None].sqrt())),
        [(real(1.0, 2.0, 3.0, 4.0),)], [(real(1.0, -1.0, 2.0, 0.0),), (real(1e6, 0, 0, -1e6),)],
        {"conv": nn.Conv1d(1, 2, 2)},
    )  # fmt: skip


class Plans:
    """Plans of one capture as the service would have them: none where one could err."""

    def __init__(self, learned: Capture, folder: Path, *names: str) -> None:
        self._learned = learned
        source = MemorySource(learned, folder)
        self.loaded = {}
        for name in names:
            if unavailable(name, learned, isolated=False) is None:
                (out := folder / name).mkdir()
                spec = make_spec(learned, name)
                try:
                    backend(name).build(source, spec, out)
                    self.loaded[name] = backend(name).load(out, spec)
                except Exception:  # an engine that lacks an operator serves nothing
                    continue

    def answers(self, model: nn.Module, call: tuple[Tensor, ...]) -> dict[str, Any]:
        """What a caller gets, by plan."""
        try:
            flat = self._learned.flatten(call, {})
            self._learned.check(flat.leaves)
        except OutsideCapture:
            return {}
        found = {}
        for name, plan in self.loaded.items():
            try:
                outputs = [
                    torch.as_tensor(one) for one in run(plan, [x.contiguous() for x in call])
                ]
            except Exception:
                found[name] = outcome(model, call)
                continue
            found[name] = outputs
            if any(x.is_floating_point() and bool(x.isnan().any()) for x in outputs):
                found[name] = outcome(model, call)
        return found


def outcome(model: nn.Module, call: tuple[Tensor, ...]) -> Any:
    """The model's own answer, or the kind of error it raises."""
    try:
        with torch.no_grad():
            result = model(*call)
    except Exception as error:
        return type(error)
    return list(result) if isinstance(result, tuple) else [result]


def check(case: Case, plans: Plans, model: nn.Module) -> None:
    for call in (*case.examples, *case.hostile):
        want = outcome(model, call)
        for name, got in plans.answers(model, call).items():
            if isinstance(want, type):
                assert got is want, f"{name} answered {got} to {call}, the model raises {want}"
                continue
            for one, other in zip(got, want, strict=True):
                said = f"{name} answered {one} to {call}, the model {other}"
                assert one.dtype == other.dtype, said
                assert torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True), said


@pytest.mark.parametrize("name", CASES)
def test_no_plan_answers_otherwise_than_the_model(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.build()
    learned = capture(model, list(case.examples))
    assert learned.program is not None, learned.reason
    plans = Plans(learned, tmp_path, "eager", "fused", "onnxruntime", "openvino")
    assert "eager" in plans.loaded
    check(case, plans, model)


@pytest.mark.parametrize("name", ["embedding", "relu", "asserted contents"])
def test_a_compiled_plan_answers_as_the_model(name: str, tmp_path: Path) -> None:
    """Without the guard, the first hostile id ends this very process."""
    if (why := backend("aoti").unavailable()) is not None:
        pytest.skip(why)
    case = CASES[name]
    model = case.build()
    plans = Plans(capture(model, list(case.examples)), tmp_path, "aoti")
    assert plans.loaded
    check(case, plans, model)


def test_what_every_engine_computes_alike_is_built_for_every_engine() -> None:
    """Guards, not absences: an encoder with a mask, and an image model."""
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    for learned in (
        capture(seeded(Attention), [text(2, 5), text(1, 9)]),
        capture(images.eval(), [(torch.randn(2, 3, 8, 8),)]),
    ):
        for name in ("eager", "onnxruntime", "openvino", "aoti", "fused"):
            engine = backend(name)
            assert unavailable(name, learned, isolated=False) == (
                engine.unavailable() or engine.supports(learned.signature)
            )


@pytest.mark.parametrize(
    ("model", "examples", "guards"),
    [
        (lambda m, i: m.table(i), TAME, (Within(0, "arg0", 0, 5),)),
        (lambda m, i: m.table.weight[i + 1], TAME, (Within(0, "arg0", -7, 4),)),
        (lambda m, i: m.table(i.clamp(0, 5)), TAME, (Within(0, "arg0", 1 - 2**24, 2**24 - 1),)),
        (lambda m, i: m.table(i % 6), TAME, ()),
        (lambda m, x: m.mix(x), FLOATS, (Finite(0, "arg0", 1e6),)),
        (lambda m, x: m.mix(x.nan_to_num()), NOT_FINITE, ()),
    ],
    ids=["ids", "ids that wrap", "clamped", "hashed", "floats", "floats with gaps"],
)
def test_guards_ask_no_more_than_the_model_needs(
    model: Callable[..., Any], examples: Sequence[tuple[Tensor, ...]], guards: tuple[Guard, ...]
) -> None:
    learned = capture(Wrapped(model, **table(6)).eval(), list(examples))
    assert learned.guards == guards


@pytest.mark.parametrize(
    ("dtype", "shown", "most"),
    [(torch.float32, 3.0, 1e6), (torch.float32, 2e9, 2e12), (torch.float64, 5.0, 1e6),
     (torch.float16, 3.0, 64.0), (torch.float16, 1000.0, 4000.0)],
)  # fmt: skip
def test_floats_far_beyond_the_examples_are_outside(
    dtype: torch.dtype, shown: float, most: float
) -> None:
    example = torch.tensor([[shown, -shown / 2, 0.0, 1.0]], dtype=dtype)
    learned = capture(Wrapped(lambda m, x: F.normalize(x)).eval(), [(example,)])
    (guard,) = learned.guards
    for held in (example, -example, example * 0, torch.full_like(example, -most)):
        assert guard.violation([held]) is None
    for beyond in (2 * most, -2 * most, math.inf, -math.inf, math.nan):
        broken = example.clone()
        broken[0, 2] = beyond
        for many in (broken, broken.repeat(5000, 1)):
            assert "must lie between" in str(guard.violation([many]))


def test_positions_by_cumulated_sums_are_proven() -> None:
    """RoBERTa's positions: a running count of what is no padding."""

    def model(m: Any, i: Tensor) -> Tensor:
        mask = i.ne(1).int()
        places = (torch.cumsum(mask, dim=1).type_as(mask) * mask).long() + 1
        return m.words(i) + m.places(places)

    parts = {"words": nn.Embedding(30, 4), "places": nn.Embedding(600, 4)}
    learned = capture(Wrapped(model, **parts).eval(), [(ids(1, 5),), (ids(2, 9),)])
    assert not learned.domain.unproven
    assert not learned.domain.bits


def test_an_index_that_is_not_proven_stays_out_of_this_process() -> None:
    learned = capture(
        Wrapped(lambda m, x: m.table((x.sigmoid() * 6).long()), **table(6)).eval(),
        [(real(0.1, 0.9),)],
    )
    assert "use process workers" in str(unavailable("aoti", learned, isolated=False))
    assert "indices" in str(unavailable("openvino", learned, isolated=True))
    assert unavailable("eager", learned, isolated=False) is None


def test_what_cannot_be_analysed_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*anything: Any) -> Any:
        raise KeyError("no such operator")

    monkeypatch.setattr("supernet.domain.study.functional", broken)
    learned = capture(nn.Linear(4, 2).eval(), [(torch.zeros(1, 4),)])
    assert learned.guards == ()
    assert unavailable("eager", learned) is None
    assert "not known" in str(unavailable("onnxruntime", learned))


def test_references_reach_the_ends_of_what_guards_let_through() -> None:
    learned = capture(seeded(Attention), [text(2, 5), text(1, 9)])
    inputs = [reference.inputs for reference in learned.references]
    assert max(int(leaves[0].max()) for leaves in inputs) == 49
    assert min(int(leaves[0].min()) for leaves in inputs) == 0
    assert all(guard.violation(leaves) is None for leaves in inputs for guard in learned.guards)


def test_a_boundary_that_the_model_refuses_is_no_reference() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert_async((x != 0).any())
            return x * 2

    learned = capture(Picky().eval(), [(torch.ones(1, 4),)])
    assert learned.references
    assert all(bool((reference.inputs[0] != 0).any()) for reference in learned.references)
