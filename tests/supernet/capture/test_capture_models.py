"""What is learned about models of many kinds, and that flat calls give their answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from supernet.backends.eager import EagerPlan
from supernet.capture.calls.pytree import flatten
from supernet.capture.probe import agree
from supernet.capture.subject import Capture, capture
from tests.supernet.models import (
    Attention,
    Causal,
    Counting,
    Pair,
    Scores,
    Stateful,
    Wrapped,
    ids,
    noise,
    seeded,
    text,
)

Make = Callable[[], nn.Module]


@dataclass
class Case:
    """A model, examples of its calls, other calls, and what must be learned."""

    make: Make
    examples: Any
    batchable: bool
    paddable: bool
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[tuple[Any, ...], ...]
    others: tuple[tuple[Any, ...], ...] = ()


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


_X = noise(2, 8)

CASES = {
    "mlp": Case(
        _mlp, (noise(1, 8),), True, False, (("rows", 8),), (("rows", 4),), ((noise(5, 8),),)
    ),
    "mlp of a batch of four": Case(
        _mlp, (noise(4, 8),), True, False, (("rows", 8),), (("rows", 4),), ((noise(1, 8),),)
    ),
    "float64": Case(
        lambda: _mlp().double(),
        (noise(1, 8).double(),), True, False, (("rows", 8),), (("rows", 4),),
        ((noise(3, 8).double(),),),
    ),
    "bfloat16": Case(
        lambda: _mlp().bfloat16(),
        (noise(1, 8).bfloat16(),), True, False, (("rows", 8),), (("rows", 4),),
    ),
    "convolutions with batch norm": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        (noise(1, 3, 12, 12),), True, False, (("rows", 3, 12, 12),), (("rows", 4),),
        ((noise(6, 3, 12, 12),),),
    ),
    "masked encoder, dict out": Case(
        Attention, [text(1, 5), text(1, 9)], True, True,
        (("rows", "length"), ("rows", "length")), (("rows", "length", 16), ("rows", 16)),
        (text(3, 7), text(1, 12), text(2, 40)),
    ),
    "encoder without a mask": Case(
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        [(noise(1, 5, 16),), (noise(1, 9, 16),)], True, False,
        (("rows", "length", 16),), (("rows", "length", 16),), ((noise(2, 6, 16),),),
    ),
    "encoder without a batch axis": Case(
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        [(noise(5, 16),), (noise(9, 16),)], False, False,
        (("length", 16),), (("length", 16),), ((noise(7, 16),),),
    ),
    "causal decoder with tied weights": Case(
        Causal, [(ids(1, 5),), (ids(2, 9),)], True, True,
        (("rows", "length"),), (("rows", "length", 30),), ((ids(4, 11),),),
    ),
    "integer result": Case(
        lambda: Wrapped(lambda m, x: m.a(x).argmax(-1), a=nn.Linear(8, 5)),
        (noise(1, 8),), True, False, (("rows", 8),), (("rows",),), ((noise(3, 8),),),
    ),
    "named tuple of a tuple": Case(
        lambda: Wrapped(lambda m, x, y: Pair(m.a(x), (y * 2, None, 3)), a=nn.Linear(8, 5)),
        (noise(1, 8), noise(1, 3)), True, False, (("rows", 8), ("rows", 3)),
        (("rows", 5), ("rows", 3)), ((noise(3, 8), noise(3, 3)),),
    ),
    "unregistered dataclass": Case(
        lambda: Wrapped(lambda m, x: Scores(m.a(x), m.a(x).argmax(-1)), a=nn.Linear(8, 5)),
        (noise(1, 8),), True, False, (("rows", 8),), (("rows", 5), ("rows",)),
    ),
    "a weight among the results": Case(
        lambda: Wrapped(lambda m, x: (m.a(x), m.a.weight), a=nn.Linear(8, 5)),
        (noise(1, 8),), True, False, (("rows", 8),), (("rows", 5), (5, 8)),
    ),
    "nested inputs": Case(
        lambda: Wrapped(lambda m, pair, flag: m.a(pair["x"]) + pair["y"][0], a=nn.Linear(8, 5)),
        ({"x": noise(1, 8), "y": [noise(1, 5)]}, True), True, False,
        (("rows", 8), ("rows", 5)), (("rows", 5),),
    ),
    "scalar result": Case(
        lambda: Wrapped(lambda m, x: m.a(x).sum(), a=nn.Linear(8, 5)),
        (noise(2, 8),), False, False, ((2, 8),), ((),),
    ),
    "scalar input": Case(
        lambda: Wrapped(lambda m, x, t: m.a(x) / t, a=nn.Linear(8, 5)),
        (noise(2, 8), torch.tensor(2.0)), False, False, ((2, 8), ()), ((2, 5),),
    ),
    "rows centred on their mean": Case(
        lambda: Wrapped(lambda m, x: x - x.mean(0)), (noise(3, 8),), False, False, ((3, 8),),
        ((3, 8),),
    ),
    "rows divided by their largest": Case(
        lambda: Wrapped(lambda m, x: x / x.max()), (noise(1, 8),), False, False, ((1, 8),),
        ((1, 8),),
    ),
    "rows compared with each other": Case(
        lambda: Wrapped(lambda m, x: x @ x.T), (noise(4, 4),), False, False, ((4, 4),), ((4, 4),)
    ),
    "strided convolution over the length": Case(
        lambda: nn.Conv1d(3, 4, 3, stride=2), [(noise(1, 3, 16),), (noise(1, 3, 20),)],
        True, False, (("rows", 3, "length"),), (("rows", 4, "any"),), ((noise(2, 3, 33),),),
    ),
    "size that depends on values": Case(
        lambda: Wrapped(lambda m, x: x.nonzero()), (noise(2, 8),), False, False, ((2, 8),),
        (("any", 2),), ((noise(2, 8).relu(),),),
    ),
    "the same tensor twice": Case(
        lambda: Wrapped(lambda m, x, y: m.a(x) + y, a=nn.Linear(8, 8)), (_X, _X), True, False,
        (("rows", 8), ("rows", 8)), (("rows", 8),), ((noise(3, 8), noise(3, 8) * 2),),
    ),
    "transposed and expanded inputs": Case(
        lambda: Wrapped(lambda m, x, y: m.a(x) + y, a=nn.Linear(8, 8)),
        (noise(8, 3).T, torch.ones(1, 8).expand(3, 8)), True, False,
        (("rows", 8), ("rows", 8)), (("rows", 8),), ((noise(5, 8), noise(5, 8) * 2),),
    ),
    "attention and its weights": Case(
        lambda: Wrapped(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(8, 2, batch_first=True)),
        [(noise(1, 5, 8),), (noise(1, 9, 8),)], True, False, (("rows", "length", 8),),
        (("rows", "length", 8), ("rows", "length", "length")), ((noise(2, 6, 8),),),
    ),
    "state of a recurrent cell": Case(
        lambda: nn.GRUCell(8, 6), (noise(2, 8), noise(2, 6)), True, False,
        (("rows", 8), ("rows", 6)), (("rows", 6),), ((noise(5, 8), noise(5, 6)),),
    ),
    "LSTM of one length": Case(
        lambda: nn.LSTM(8, 6, batch_first=True), (noise(1, 5, 8),), True, False,
        (("rows", 5, 8),), (("rows", 5, 6), (1, "rows", 6), (1, "rows", 6)),
        ((noise(3, 5, 8),),),
    ),
    "LSTM of two lengths": Case(
        lambda: nn.LSTM(8, 6, batch_first=True), [(noise(1, 5, 8),), (noise(1, 7, 8),)],
        True, False, (("rows", "length", 8),),
        (("rows", "length", 6), (1, "rows", 6), (1, "rows", 6)), ((noise(3, 6, 8),),),
    ),
    "height and width vary on their own": Case(
        lambda: nn.Conv2d(3, 4, 3), [(noise(1, 3, 8, 10),), (noise(1, 3, 12, 18),)],
        True, False, (("rows", 3, 8, 10),), (("rows", 4, 6, 8),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_axes_are_learned_and_answers_kept(name: str) -> None:
    case = CASES[name]
    model = seeded(case.make)
    learned = capture(model, case.examples)
    assert learned.program is not None, learned.reason
    signature = learned.signature
    assert (signature.batchable, signature.paddable) == (case.batchable, case.paddable)
    assert tuple(spec.dims for spec in signature.inputs) == case.inputs
    assert tuple(spec.dims for spec in signature.outputs) == case.outputs
    first = case.examples[0] if isinstance(case.examples, list) else case.examples
    for call in (first, *case.others):
        _answers_agree(model, learned, call)
    for reference in learned.references:
        got = EagerPlan(learned.program).run(reference.inputs)
        assert agree(got, reference.outputs), reference.shape


def _answers_agree(model: nn.Module, learned: Capture, call: tuple[Any, ...]) -> None:
    flat = learned.flatten(call, {})
    assert learned.program is not None
    got = learned.rebuild(EagerPlan(learned.program).run(flat.leaves))
    with torch.no_grad():
        want = model(*call)
    got_leaves, got_structure = flatten(got)
    want_leaves, want_structure = flatten(want)
    assert got_structure == want_structure
    assert type(got) is type(want)
    assert agree(got_leaves, want_leaves)


NO_PROGRAM = {
    "dropout in training": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout()).train(), (noise(1, 8),),
        r"draws random numbers.*model\.eval\(\)",
    ),
    "batch norm in training": (
        lambda: nn.BatchNorm1d(8).train(), (noise(4, 8),),
        r"buffer 'num_batches_tracked'.*model\.eval",
    ),
    "randomness": (
        lambda: Wrapped(lambda m, x: x + torch.rand_like(x)).eval(), (noise(2, 8),), "random",
    ),
    "randomness that hardly ever shows": (
        lambda: Wrapped(lambda m, x: x + torch.bernoulli(x * 0 + 1e-9)).eval(), (noise(2, 8),),
        r"draws random numbers \(aten\.bernoulli",
    ),
    "a branch on values": (
        lambda: Wrapped(lambda m, x: x * 2 if x.sum() > 0 else x), (noise(2, 8),), "data-dependent",
    ),
    "a counter": (Stateful, (noise(2, 8),), "attribute 'calls'"),
    "a counting buffer": (Counting, (noise(2, 8),), "buffer 'seen'"),
    "its input overwritten": (lambda: Wrapped(lambda m, x: x.add_(1)), (noise(2, 8),), "writes"),
    "an opaque result": (
        lambda: Wrapped(lambda m, x: (x, object())), (noise(2, 8),), r"result\[1\] is of type obj",
    ),
    "an opaque argument": (
        lambda: Wrapped(lambda m, x, o: x), (noise(2, 8), object()), "argument 1 is of type object",
    ),
    "a number that follows the input": (
        lambda: Wrapped(lambda m, x: (x, x.mean().item())), (noise(2, 8),), "constants of the res",
    ),
    "complex numbers": (
        lambda: Wrapped(lambda m, x: torch.fft.fft(x)), (noise(1, 8),), "complex64",
    ),
    "no tensor at all": (lambda: Wrapped(lambda m, n: torch.ones(n)), (3,), "no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PROGRAM)
def test_what_no_plan_can_stand_for_is_said_in_one_line(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, examples, reason = NO_PROGRAM[name]
    torch.manual_seed(0)
    learned = capture(make(), examples)
    assert learned.program is None
    assert learned.reason is not None
    assert "\n" not in learned.reason

    assert re.search(reason, learned.reason), learned.reason
    assert capfd.readouterr() == ("", "")  # torch prints the graph it stumbled over


def test_rows_are_not_trusted_where_the_code_looks_at_values() -> None:
    learned = capture(Wrapped(lambda m, x: x * 2 if x.sum() > 0 else x), (noise(2, 8).abs(),))
    assert not learned.signature.batchable


def test_an_lstm_of_two_lengths_is_still_batched_at_equal_length() -> None:
    model = nn.LSTM(8, 6, batch_first=True).eval()
    signature = capture(model, [(noise(1, 5, 8),), (noise(1, 7, 8),)]).signature
    assert (signature.batchable, signature.paddable, signature.min_length) == (True, False, 5)


def test_code_that_branches_on_the_length_limits_the_lengths() -> None:
    model = Wrapped(lambda m, x: m.a(x) if x.shape[1] != 12 else x, a=nn.Linear(8, 8))
    learned = capture(model, [(noise(1, 5, 8),), (noise(1, 9, 8),)])
    assert learned.grid.lengths[-1] == 11


def test_code_that_branches_on_the_rows_limits_the_rows() -> None:
    model = Wrapped(lambda m, x: m.a(x) if x.shape[0] < 5 else m.a(x) + 0, a=nn.Linear(8, 8))
    assert capture(model, (noise(1, 8),)).grid.max_rows == 4


def test_lengths_end_where_the_original_does() -> None:
    learned = capture(seeded(Attention), [text(1, 5), text(1, 9)])
    assert learned.grid.lengths[-1] == 40  # the position table: no guard in the program says so


def test_a_batch_larger_than_the_largest_widens_it() -> None:
    model = seeded(_mlp)
    assert capture(model, (noise(32, 8),), max_rows=16).grid.max_rows == 32


def test_a_compiled_module_is_captured_as_what_it_wraps() -> None:
    class Compiled(nn.Module):
        def __init__(self, original: nn.Module) -> None:
            super().__init__()
            self._orig_mod = original

    model = seeded(_mlp)
    assert capture(Compiled(model), (noise(1, 8),)).graph_hash == (
        capture(model, (noise(1, 8),)).graph_hash
    )
