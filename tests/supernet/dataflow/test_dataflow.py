"""What the graph proves: rows independent, padding neutral, or why not.

Each case says what is true of the model. A wrong proof is the worst fault there is, so whatever is
proven or inferred here is also tried on hostile inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from supernet.capture.subject import Capture, Wishes, capture
from supernet.dataflow.layers import RULES
from supernet.errors import OutsideCapture
from supernet.guards import Shown
from tests.supernet.models import Wrapped, noise, seeded

PROVEN, INFERRED, OFF = "proven", "inferred", "off"


@dataclass(frozen=True)
class Case:
    """A model, calls of it, and what must be found of its rows and its padding."""

    make: Callable[[], nn.Module]
    examples: Any
    batching: str
    padding: str = OFF
    why: str = ""


def words(rows: int, length: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(1, 50, (rows, length), generator=rng)


def masked(rows: int, length: int) -> tuple[Tensor, Tensor]:
    return words(rows, length), torch.ones(rows, length, dtype=torch.long)


WORDS = [(words(1, 5),), (words(1, 9),)]
MASKED = [masked(1, 5), masked(1, 9)]
FRAMES = [(noise(1, 5, 8),), (noise(1, 9, 8),)]
ROWS = (noise(2, 8),)


def embedder(function: Callable[..., Any], padding_idx: int | None = None) -> Callable[[], Wrapped]:
    def make() -> Wrapped:
        table = nn.Embedding(50, 16, padding_idx=padding_idx)
        return Wrapped(
            function, embed=table, mix=nn.Linear(16, 16), conv=nn.Conv1d(16, 16, 3, padding=1)
        )

    return make


def of(function: Callable[..., Any]) -> Callable[[], Wrapped]:
    return lambda: Wrapped(function, mix=nn.Linear(8, 8))


def attention(fill: float, *, causal: bool = False) -> Callable[[], Wrapped]:
    def forward(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
        x = m.embed(ids)
        scores = m.mix(x) @ x.transpose(1, 2) / 4
        scores = scores.masked_fill(mask[:, None, :] == 0, fill)
        if causal:
            size = ids.shape[1]
            scores = scores + torch.full((size, size), fill).triu(1)
        return scores.softmax(-1) @ x

    return embedder(forward)


def pooled(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class Tagger(nn.Module):
    """A recurrent layer over words, with or without a look at the future."""

    def __init__(self, *, both: bool, pool: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=both)
        self.pool = pool

    def forward(self, ids: Tensor) -> Tensor:
        states, (last, _) = self.lstm(self.embed(ids))
        return states.amax(1) if self.pool == "max" else states if self.pool == "none" else last[-1]


class Experts(nn.Module):
    """Tokens go to the best of four experts; with a capacity, the late ones are left out."""

    def __init__(self, capacity: int | None) -> None:
        super().__init__()
        self.gate, self.capacity = nn.Linear(8, 4), capacity
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        best = self.gate(x).argmax(-1)
        chosen = fn.one_hot(best, 4)
        if self.capacity is not None:
            chosen = chosen * (chosen.cumsum(0) <= self.capacity)
        mixed = torch.stack([expert(x) for expert in self.experts], 1)
        return (mixed * chosen[..., None]).sum(1)


def windows(x: Tensor, m: Any) -> Tensor:
    """Swin's: an image cut into windows, each a row of its own for a while."""
    rows = x.shape[0]
    cut = x.view(rows, 4, 2, 4, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
    scores = (cut @ cut.transpose(1, 2)).softmax(-1)
    return (
        (scores @ m.mix(cut))
        .view(rows, 4, 4, 2, 2, 8)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(rows, 64, 8)
    )


CASES = {
    # -- rows ------------------------------------------------------------------------------------
    "a layer": Case(of(lambda m, x: m.mix(x).relu()), ROWS, PROVEN),
    "rows folded into heads": Case(
        of(lambda m, x: (x.reshape(-1, 4) @ x.reshape(-1, 4).T.new_ones(4, 4)).view(-1, 8)),
        ROWS, PROVEN,
    ),
    "heads in the batch of a product": Case(
        of(lambda m, x: torch.bmm(
            m.mix(x).view(-1, 5, 2, 4).transpose(1, 2).reshape(-1, 5, 4),
            x.view(-1, 5, 2, 4).transpose(1, 2).reshape(-1, 5, 4).transpose(1, 2),
        ).view(x.shape[0], 2, 5, 5)),
        (noise(2, 5, 8),), PROVEN,
    ),
    "windows of an image": Case(of(lambda m, x: windows(x, m)), (noise(2, 64, 8),), PROVEN),
    "einsum": Case(
        of(lambda m, x: torch.einsum("bij,bkj->bik", x, m.mix(x))), (noise(2, 5, 8),), PROVEN
    ),
    "the last word of each row": Case(
        of(lambda m, x, n: x[torch.arange(x.shape[0]), n]),
        (noise(2, 5, 8), torch.tensor([1, 3])), PROVEN,
    ),
    "gather": Case(
        of(lambda m, x, n: x.gather(1, n)), (noise(2, 8), torch.zeros(2, 3, dtype=torch.long)),
        PROVEN,
    ),
    "in place on a copy": Case(of(lambda m, x: x.clone().relu_().mul_(2)), ROWS, PROVEN),
    "experts without a limit": Case(lambda: Experts(None), (noise(3, 8),), PROVEN),
    "experts with a limit that is not reached": Case(
        lambda: Experts(100), (noise(3, 8),), OFF, why="cumsum"
    ),
    "a limit that this batch does not reach": Case(
        of(lambda m, x: m.mix(x) * (x.abs().amax() < 1e5)), ROWS, OFF, why="amax"
    ),
    "a flag over the whole batch": Case(
        of(lambda m, x: x + (x.abs() > 100).any()), ROWS, OFF, why="any"
    ),
    "a small coupled output beside a large one": Case(
        of(lambda m, x: torch.cat([1e6 * x, 1e-6 * x.sum(0, keepdim=True).expand_as(x)], 1)),
        ROWS, OFF,
    ),
    "a Fourier transform over features": Case(
        of(lambda m, x: torch.fft.fft(m.mix(x)).real), ROWS, PROVEN
    ),
    "a Fourier transform over everything": Case(
        of(lambda m, x: x + 1e-9 * torch.fft.fft2(x).real), ROWS, OFF
    ),
    "distances to what was learned": Case(
        of(lambda m, x: torch.cdist(x, m.mix.weight)), ROWS, PROVEN
    ),
    "distances to each other": Case(
        of(lambda m, x: torch.cdist(x, x).amin(1)), (noise(1, 8),), OFF
    ),
    "a norm over everything, seldom": Case(
        of(lambda m, x: x / x.norm().clamp(min=1e4)), ROWS, OFF, why="norm"
    ),
    "the number of rows in a mean": Case(
        of(lambda m, x: m.mix(x) / x.shape[0] * 2), (noise(1, 8),), OFF
    ),
    "the place in the batch": Case(
        of(lambda m, x: x + 1e-9 * torch.arange(x.shape[0])[:, None]), ROWS, OFF
    ),
    "rows sorted": Case(of(lambda m, x: x.sort(0).values), ROWS, OFF),
    "rows turned round": Case(of(lambda m, x: x + 1e-7 * x.flip(0)), ROWS, OFF),
    "the first row for all": Case(of(lambda m, x: x + 0 * x[:1]), ROWS, OFF, why="slice"),
    "a running sum over the rows": Case(of(lambda m, x: x + 1e-9 * x.cumsum(0)), ROWS, OFF),
    "batch norm in training": Case(
        lambda: Wrapped(lambda m, x: fn.batch_norm(x, None, None, training=True) * 0 + x),
        ROWS, OFF,
    ),
    "detections of all images": Case(
        of(lambda m, x: (x[..., 0], x[x[..., 0] > 0.9])), (-noise(2, 8).abs(),), OFF
    ),
    "rows compared with each other": Case(of(lambda m, x: x @ x.T @ x * 1e-9 + x), ROWS, OFF),
    "the median of everything": Case(of(lambda m, x: x + 0 * x.median()), ROWS, OFF, why="median"),
    "weights made of the rows": Case(
        of(lambda m, x: x + 1e-9 * fn.conv1d(x[:, None], x[:, None, :3], padding=1).sum(1)),
        ROWS, OFF,
    ),
    "halves of the batch": Case(
        of(lambda m, x: torch.cat([fn.glu(x, 0), fn.glu(x, 0)])), (noise(2, 8),), OFF
    ),
    # -- padding ---------------------------------------------------------------------------------
    "mean of what the mask shows": Case(
        embedder(lambda m, i, k: pooled(m.mix(m.embed(i)), k)), MASKED, PROVEN, PROVEN
    ),
    "maximum of zeros where masked": Case(
        embedder(lambda m, i, k: (m.mix(m.embed(i)) * k[..., None]).amax(1)),
        MASKED, PROVEN, OFF, "amax",
    ),
    "maximum over positive numbers": Case(
        embedder(lambda m, i, k: (m.mix(m.embed(i)).relu() * k[..., None]).amax(1)),
        MASKED, PROVEN, PROVEN,
    ),
    "maximum under minus infinity": Case(
        embedder(lambda m, i, k: m.embed(i).masked_fill(k[..., None] == 0, -torch.inf).amax(1)),
        MASKED, PROVEN, PROVEN,
    ),
    "maximum of an embedding whose padding is zeros": Case(
        embedder(lambda m, i: m.embed(i).amax(1), padding_idx=0), WORDS, PROVEN, OFF
    ),
    "sum of an embedding whose padding is zeros": Case(
        embedder(lambda m, i: m.embed(i).sum(1), padding_idx=0), WORDS, PROVEN, PROVEN
    ),
    "sum of an embedding": Case(embedder(lambda m, i: m.embed(i).sum(1)), WORDS, PROVEN, OFF),
    "mean over zeros": Case(
        embedder(lambda m, i: m.embed(i).mean(1), padding_idx=0), WORDS, PROVEN, OFF, "mean"
    ),
    "convolution over time and its maximum": Case(
        embedder(lambda m, i: m.conv(m.embed(i).transpose(1, 2)).relu().amax(2), padding_idx=0),
        WORDS, PROVEN, OFF,
    ),
    "convolution over words whose padding is zeros": Case(
        embedder(lambda m, i: m.conv(m.embed(i).transpose(1, 2)), padding_idx=0),
        WORDS, PROVEN, PROVEN,
    ),
    "convolution over words": Case(
        embedder(lambda m, i: m.conv(m.embed(i).transpose(1, 2))), WORDS, PROVEN, OFF, "conv1d"
    ),
    "attention under minus infinity": Case(attention(float("-inf")), MASKED, PROVEN, PROVEN),
    "attention under the lowest number": Case(
        attention(torch.finfo(torch.float32).min), MASKED, PROVEN, PROVEN
    ),
    "attention under a low number": Case(attention(-1e9), MASKED, PROVEN, INFERRED),
    "attention under a number that can win": Case(attention(-1.0), MASKED, PROVEN, OFF),
    "causal attention without another mask": Case(
        embedder(lambda m, i: fn.scaled_dot_product_attention(*[m.embed(i)] * 3, is_causal=True)),
        WORDS, PROVEN, PROVEN,
    ),
    "a triangle of minus infinities": Case(
        embedder(lambda m, i: (
            m.embed(i) @ m.embed(i).transpose(1, 2)
            + torch.full((i.shape[1], i.shape[1]), -torch.inf).triu(1)
        ).softmax(-1)), WORDS, PROVEN, PROVEN,
    ),
    "a causal mask of positions": Case(
        embedder(lambda m, i: (m.embed(i) @ m.embed(i).transpose(1, 2)).masked_fill(
            torch.arange(i.shape[1]) > torch.arange(i.shape[1])[:, None], -torch.inf
        ).softmax(-1)), WORDS, PROVEN, PROVEN,
    ),
    "an anticausal mask of positions": Case(
        embedder(lambda m, i: (m.embed(i) @ m.embed(i).transpose(1, 2)).masked_fill(
            torch.arange(i.shape[1]) < torch.arange(i.shape[1])[:, None], -torch.inf
        ).softmax(-1)), WORDS, PROVEN, OFF,
    ),
    "attention without a mask": Case(
        embedder(lambda m, i: fn.scaled_dot_product_attention(*[m.embed(i)] * 3)),
        WORDS, PROVEN, OFF,
    ),
    "the last position": Case(embedder(lambda m, i: m.embed(i)[:, -1]), WORDS, PROVEN, OFF),
    "the first position": Case(embedder(lambda m, i: m.embed(i)[:, 0]), WORDS, PROVEN, PROVEN),
    "positions from the end": Case(embedder(lambda m, i: m.embed(i).flip(1)), WORDS, PROVEN, OFF),
    "a running sum": Case(embedder(lambda m, i: m.embed(i).cumsum(1)), WORDS, PROVEN, PROVEN),
    "the length as a number": Case(
        embedder(lambda m, i: m.embed(i) / i.shape[1]), WORDS, PROVEN, OFF, "div"
    ),
    "where the largest is": Case(
        embedder(lambda m, i, k: (m.embed(i).sum(-1) * k).argmax(1)), MASKED, PROVEN, OFF
    ),
    "the last position that is no padding": Case(
        embedder(lambda m, i: m.embed(i)[
            torch.arange(i.shape[0]), (torch.arange(i.shape[1]) * (i != 0).int()).argmax(-1)
        ]), WORDS, PROVEN, PROVEN,
    ),
    "as many from the end as there are": Case(
        embedder(lambda m, i: m.embed(i)[:, -i.shape[1] :]), WORDS, PROVEN, PROVEN
    ),
    "all but the last from the end": Case(
        embedder(lambda m, i: m.embed(i)[:, -(i.shape[1] - 1) :]), WORDS, OFF, OFF
    ),
    "one over the length": Case(
        embedder(lambda m, i: m.embed(i) * (1.0 / i.shape[1])), WORDS, PROVEN, OFF
    ),
    "a table read where the length ends": Case(
        embedder(lambda m, i: m.embed(i) + m.mix.weight[i.shape[1] - 1]), WORDS, PROVEN, OFF
    ),
    "a table read from the length on": Case(
        embedder(lambda m, i: m.embed(i) + m.mix.weight[i.shape[1] :][:1]), WORDS, PROVEN, OFF
    ),
    "the length as a tensor": Case(
        embedder(lambda m, i: m.embed(i) / torch.full((), i.shape[1])), WORDS, PROVEN, OFF
    ),
    "ids that wrap around": Case(
        embedder(lambda m, i: i.clamp(min=1).to(torch.int8).amax(1)), WORDS, PROVEN, OFF
    ),
    "a question about all positions": Case(
        embedder(lambda m, i: m.embed(i) * (i.cumsum(1) < 0).any()), WORDS, OFF, INFERRED
    ),
    "a question about the positions of a row": Case(
        embedder(lambda m, i: m.embed(i) * (i.cumsum(1) > 10**6).any(1)[:, None, None]),
        WORDS, PROVEN, INFERRED,
    ),
    "positions sorted": Case(embedder(lambda m, i: i.sort(1).values), WORDS, PROVEN, OFF),
    "statistics over time": Case(
        of(lambda m, x: fn.instance_norm(x.transpose(1, 2))), FRAMES, PROVEN, OFF
    ),
    "a layer norm over features": Case(
        of(lambda m, x: fn.layer_norm(m.mix(x), (8,))), FRAMES, PROVEN, PROVEN
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def captured() -> Callable[[str], tuple[nn.Module, Capture]]:
    made: dict[str, tuple[nn.Module, Capture]] = {}

    def get(name: str) -> tuple[nn.Module, Capture]:
        if name not in made:
            model = seeded(CASES[name].make)
            made[name] = (model, capture(model, CASES[name].examples, max_rows=8))
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_the_finding_is_the_truth(
    name: str, captured: Callable[[str], tuple[nn.Module, Capture]]
) -> None:
    case, (_, learned) = CASES[name], captured(name)
    assert learned.batching.status == case.batching, learned.batching
    assert learned.padding.status == case.padding, learned.padding
    assert case.why in f"{learned.batching.why} {learned.padding.why}"
    assert learned.signature.batchable is learned.batching.allowed
    assert learned.signature.paddable is learned.padding.allowed


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.batching != OFF])
def test_a_row_among_hostile_others_is_answered_as_alone(
    name: str, captured: Callable[[str], tuple[nn.Module, Capture]]
) -> None:
    model, _ = captured(name)
    example = CASES[name].examples
    args = example[0] if isinstance(example, list) else example
    one = [a[:1] for a in args]
    others = [[_other(a, seed) for a in one] for seed in range(5)]
    alone = [model(*row) for row in (one, *others)]
    together = model(*[torch.cat(same) for same in zip(one, *others, strict=True)])
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def _other(example: Tensor, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    if example.is_floating_point():
        return torch.randn(example.shape, generator=rng) * 10.0 ** (seed - 2)
    return example[..., torch.randperm(example.shape[-1], generator=rng)]


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.padding != OFF])
def test_padding_changes_no_answer(
    name: str, captured: Callable[[str], tuple[nn.Module, Capture]]
) -> None:
    model, learned = captured(name)
    for length in (1, 2, 3, 7):
        for seed in range(3):
            args = [
                _other(a, seed)[:, :1].expand(-1, length, *a.shape[2:]).clone()
                if a.is_floating_point()
                else words(1, length, seed) if index == 0 else _mask(length, seed)
                for index, a in enumerate(CASES[name].examples[0])
            ]  # fmt: skip
            if any(guard.violation(args) for guard in learned.guards):
                continue
            padded = [fn.pad(a, (*(0, 0) * (a.ndim - 2), 0, 4)) for a in args]
            got, want = model(*padded), model(*args)
            dims = learned.signature.outputs[0].dims
            for axis, dim in enumerate(dims):
                got = got.narrow(axis, 0, length) if dim == "length" else got
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)


def _mask(length: int, seed: int) -> Tensor:
    mask = torch.ones(1, length, dtype=torch.long)
    mask[:, length - min(seed, length - 1) :] = 0
    return mask


def test_a_mask_that_hides_the_first_position_is_answered_by_the_original() -> None:
    learned = capture(seeded(attention(torch.finfo(torch.float32).min)), MASKED)
    (guard,) = (guard for guard in learned.guards if isinstance(guard, Shown))
    ids, mask = masked(2, 4)
    assert guard.violation([ids, mask]) is None
    mask[1, 0] = 0
    assert "must be 1 at the first position" in str(guard.violation([ids, mask]))


NO_RULE = {
    "as_strided": "reads memory, not dims",
    "_embedding_bag": "sums over bags that another tensor cuts",
    "_pdist_forward": "is of every pair of rows",
    "_local_scalar_dense": "is no tensor",
    "resize_": "changes memory, and is made functional first",
    "empty_strided": "has contents of no meaning",
}
"""Core operators of which nothing is known, so that experiments decide."""


def test_every_core_operator_has_a_rule() -> None:
    unruled = set()
    # Not dir(torch.ops.aten), which names those that were used before in this process.
    schemas = [schema.name.split("::") for schema in torch._C._jit_get_all_schemas()]
    for name in sorted({name for namespace, name in schemas if namespace == "aten"}):
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if hasattr(packet, "overloads") else ():
            operator = getattr(packet, overload)
            tags = operator.tags
            if torch.Tag.core not in tags or torch.Tag.pointwise in tags:
                continue
            random = torch.Tag.nondeterministic_seeded in tags
            if random or name.startswith("sym_") or name.endswith("backward"):
                continue
            if operator._schema.name not in RULES:
                unruled.add(name)
    assert unruled == set(NO_RULE)


@pytest.mark.parametrize("pool", ["max", "none", "last"])
@pytest.mark.parametrize("both", [True, False])
def test_a_recurrent_layer_over_padding(pool: str, both: bool) -> None:
    learned = capture(seeded(lambda: Tagger(both=both, pool=pool)), WORDS)
    assert learned.batching.allowed
    assert learned.padding.allowed is (pool == "none" and not both), learned.padding


def test_a_program_in_which_the_length_became_a_number_holds_for_no_other_length() -> None:
    """torch.export writes the sample's own scale into the graph."""
    model = embedder(
        lambda m, i: fn.scaled_dot_product_attention(
            *[m.embed(i)] * 3, is_causal=True, scale=i.shape[1] ** -0.5
        )
    )
    learned = capture(seeded(model), WORDS)
    for length in (3, 4, 6, 9):
        with pytest.raises(OutsideCapture, match="length must be between 5 and 5"):
            learned.flatten((words(1, length),), {})


def test_what_the_user_forbids_is_off() -> None:
    model = seeded(embedder(lambda m, i, k: pooled(m.mix(m.embed(i)), k)))
    learned = capture(model, MASKED, wishes=Wishes(batchable=False, paddable=False, lengths=(5, 9)))
    assert (learned.batching.status, learned.padding.status) == (OFF, OFF)
    assert learned.batching.why == "forbidden"
    learned.flatten(masked(1, 9), {})
    with pytest.raises(OutsideCapture, match=r"length must be one of \[5, 9\], got 7"):
        learned.flatten(masked(1, 7), {})


def test_what_the_user_demands_is_done_unless_an_experiment_refutes_it() -> None:
    forced = of(lambda m, x: m.mix(x) * (x.abs().amax() < 1e9))
    assert capture(seeded(forced), ROWS).batching.status == OFF
    learned = capture(seeded(forced), ROWS, wishes=Wishes(batchable=True))
    assert learned.batching.status == "demanded"
    assert learned.batching.watched
    with pytest.raises(ValueError, match="batchable must be False or None"):
        capture(seeded(of(lambda m, x: x - x.mean(0))), ROWS, wishes=Wishes(batchable=True))
    with pytest.raises(ValueError, match="paddable must be False or None for this model: length"):
        capture(
            seeded(embedder(lambda m, i: m.embed(i).mean(1))), WORDS, wishes=Wishes(paddable=True)
        )


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"batchable": 1}, "batchable must be True, False or None, got 1"),
        ({"lengths": ()}, "lengths must be one or more lengths of at least 1"),
        ({"lengths": (0,)}, "lengths must be one or more lengths of at least 1"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(wishes: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        Wishes(**wishes)
