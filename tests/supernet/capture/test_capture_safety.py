"""The user's module stays as it was, and captures mean the same in every process."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from supernet.capture.probe import structural_copy
from supernet.capture.subject import Examples, capture
from supernet.errors import OutsideCapture, Uncapturable
from tests.supernet.models import Attention, Causal, Wrapped, ids, noise, seeded, text

ROOT = Path(__file__).resolve().parents[3]


def _fingerprint(model: nn.Module) -> dict[str, tuple[int, int, str]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: (t.data_ptr(), t._version, _digest(t)) for name, t in tensors}


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("training", [False, True])
def test_the_module_is_bit_identical_after_capture(training: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).train(training)
    before, attributes = _fingerprint(model), [dict(vars(m)) for m in model.modules()]
    random = torch.random.get_rng_state()
    capture(model, (noise(4, 8),))
    assert _fingerprint(model) == before
    assert [dict(vars(m)) for m in model.modules()] == attributes
    assert model.training is training
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_copy_shares_every_tensor_and_no_module() -> None:
    model = Causal()
    copied = structural_copy(model)
    theirs = dict(copied.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert theirs[name] is parameter
    assert copied.head.weight is copied.embed.weight
    assert not set(map(id, model.modules())) & set(map(id, copied.modules()))


def test_a_module_that_cannot_be_copied_is_said_so() -> None:
    model = nn.Linear(2, 2)
    model.lock = open(__file__)  # noqa: SIM115 - what a careless model might hold
    with model.lock:
        with pytest.raises(Uncapturable, match="cannot be copied: it holds an object of"):
            structural_copy(model)
        assert capture(model, (noise(1, 2),)).program is None


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from tests.supernet.models import *; from supernet.capture.subject import capture;"
        "print(capture(seeded(Attention), [text(1, 5), text(1, 9)]).graph_hash)"
    )
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    here = capture(seeded(Attention), [text(1, 5), text(1, 9)]).graph_hash
    assert other.stdout.strip() == here


def test_the_hash_follows_weights_graph_and_signature() -> None:
    model = seeded(Causal)
    hashes = {capture(model, (ids(1, 5),)).graph_hash}
    hashes.add(capture(model, [(ids(1, 5),), (ids(1, 6),)]).graph_hash)
    with torch.no_grad():
        model.mix.bias[0] += 1e-3
    hashes.add(capture(model, (ids(1, 5),)).graph_hash)
    doubled = Wrapped(lambda m, x: m.inner(x) * 2, inner=copy.deepcopy(model))
    hashes.add(capture(doubled, (ids(1, 5),)).graph_hash)
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("examples", "error", "text"),
    [
        (torch.ones(2), TypeError, r"must be a tuple of arguments.*got Tensor; write \(x,\)"),
        ([], ValueError, "at least one example, got an empty list"),
        ([(torch.ones(1, 8),), 3], TypeError, r"example_inputs\[1\] must be a tuple"),
        ({1: torch.ones(1, 8)}, TypeError, "argument names as keys, got 1"),
        ((torch.ones(0, 8),), ValueError, r"example_inputs\[0\]: one tensor must not be empty"),
        ((torch.ones(1, 9),), ValueError, r"a call the model accepts; it raised RuntimeError"),
        (
            [(torch.ones(1, 8),), (torch.ones(8),)],
            ValueError,
            "must have dtype torch.float32 and 2",
        ),
        ([(torch.ones(1, 8),), ()], ValueError, r"example_inputs\[1\] must be called as the first"),
    ],
)
def test_bad_examples_are_named(examples: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        capture(seeded(lambda: nn.Linear(8, 4)), examples)


def test_a_function_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got builtin.*wrap a f"):
        capture(torch.relu, (noise(1, 8),))  # type: ignore[arg-type]


def test_examples_may_be_made_beforehand() -> None:
    examples = Examples.of([(noise(1, 8),)])
    assert Examples.of(examples) is examples


@pytest.fixture(scope="module")
def attention():  # type: ignore[no-untyped-def]
    return capture(seeded(Attention), [text(1, 5), text(1, 9)], max_rows=4)


def test_the_same_call_may_be_written_in_other_ways(attention) -> None:  # type: ignore[no-untyped-def]
    x, mask = text(2, 7)
    for args, kwargs in (
        ((x, mask), {}),
        ((x,), {"mask": mask}),
        ((), {"mask": mask, "ids": x}),
        ((x, mask, None), {}),
        ((x, mask), {"scale": None}),
    ):
        flat = attention.flatten(args, kwargs)
        assert (flat.rows, flat.length) == (2, 7)
        assert [id(leaf) for leaf in flat.leaves] == [id(x), id(mask)]


X, MASK = text(2, 7)


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((X,), {}, "argument 'mask' must be given"),
        ((X, MASK), {"ids": X}, "argument 'ids' must be given once"),
        ((X, MASK, 2.0), {}, "argument 'scale' was not part of the example"),
        ((X, MASK), {"other": 1}, "argument 'other' was not part"),
        ((X, MASK, None, X), {}, "argument 3 was not part"),
        ((X.int(), MASK), {}, "ids must have dtype torch.int64, got torch.int32"),
        ((X, MASK[0]), {}, "mask must have 2 dimensions, got 1"),
        ((X, MASK[:1]), {}, "mask must have 2 rows, got 1"),
        ((X, MASK[:, :3]), {}, "mask must have length 7, got 3"),
        ((X[:0], MASK[:0]), {}, "rows must be at least 1, got 0"),
        ((X[:, :0], MASK[:, :0]), {}, "length must be between 1 and 40, got 0"),
        (text(5, 7), {}, "rows must be at most 4, got 5"),
        (text(1, 41), {}, "length must be between 1 and 40, got 41"),
        ((X.tolist(), MASK), {}, "argument 'ids' must be a torch.Tensor, got list"),
        ((X.to_sparse(), MASK), {}, "ids must have cpu|ids must have"),
        ((X.to("meta"), MASK), {}, "ids must have cpu, got meta"),
    ],
)
def test_calls_outside_the_capture_are_left_to_the_original(  # type: ignore[no-untyped-def]
    attention, args, kwargs, reason: str
) -> None:
    with pytest.raises(OutsideCapture, match=reason):
        attention.flatten(args, kwargs)


def test_lengths_between_examples_only_where_padding_is_illegal() -> None:
    model = seeded(lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    learned = capture(model, [(noise(1, 5, 16),), (noise(1, 9, 16),)])
    with pytest.raises(OutsideCapture, match="length must be between 5"):
        learned.flatten((noise(1, 3, 16),), {})


def test_without_a_capture_every_call_is_outside() -> None:
    learned = capture(Wrapped(lambda m, x: x + torch.rand_like(x)).eval(), (noise(1, 8),))
    with pytest.raises(OutsideCapture, match="random"):
        learned.flatten((noise(1, 8),), {})
