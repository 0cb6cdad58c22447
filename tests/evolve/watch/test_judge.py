"""What is wrong is found and put down to its cause; what is right is never accused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.fidelity import Limit
from tests.evolve.watched import Service, signature

ROWS = signature([("rows", 8)], [("rows", 8)])
TEXT = signature([("rows", "length", 4)], [("rows", 4)])


class Coupled(nn.Module):
    """Rows are independent until one of them is large."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.abs() > 100).any()


class SmallCoupled(nn.Module):
    """A large independent output beside a small one that the whole batch decides."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 1e6, x[:, :1] - x[:, :1].mean()


class Neighbour(nn.Module):
    """Detections of all rows in one list: a row finds what others push out of its place."""

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        hits = x[x[:, 0] > 0.9]
        found[: len(hits)] = hits
        return found


class MaxOverTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=1)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class Counting(nn.Module):
    """Its answer depends on how often it was asked, which no look at it tells."""

    def __init__(self) -> None:
        super().__init__()
        self._count = itertools.count().__next__

    def forward(self, x: Tensor) -> Tensor:
        return x + self._count()


def rows(*values: float) -> list[list[Tensor]]:
    return [[torch.full((1, 8), value)] for value in values]


def causes(service: Service) -> list[str]:
    """The first cause found; a mismatch empties the queue, so there may be no other."""
    return service.look()[:1]


def test_rows_that_are_coupled_beyond_a_limit() -> None:
    service = Service(Coupled(), ROWS, [torch.zeros(1, 8)])
    for _ in range(20):
        service.run(*rows(1.0, 2.0, 3.0))
    assert service.look() == []
    service.run(*rows(1.0, 200.0, 3.0))
    assert causes(service) == ["batching"]
    assert "where the model alone gives" in service.verdicts[0].why
    assert "so does the model itself, in a batch with others" in service.verdicts[0].why


def test_a_small_coupled_output_beside_a_large_one() -> None:
    both = signature([("rows", 8)], [("rows", 8), ("rows", 1)])
    service = Service(SmallCoupled(), both, [torch.zeros(1, 8)])
    service.run(*rows(1.0, 1.1))
    assert causes(service) == ["batching"]
    assert "output 1" in service.verdicts[0].why


def test_a_neighbours_detections() -> None:
    service = Service(Neighbour(), ROWS, [torch.zeros(1, 8)])
    service.run(*rows(0.0, 0.95, 0.0))
    assert causes(service) == ["batching"]


def test_padding_that_wins_where_all_is_negative() -> None:
    service = Service(MaxOverTime(), TEXT, [torch.zeros(1, 3, 4)])
    torch.manual_seed(0)
    long, mixed = torch.rand(1, 9, 4), torch.rand(1, 2, 4)
    for _ in range(20):
        service.run([long], [mixed])
    assert service.look() == []
    service.run([long], [-mixed])
    assert causes(service) == ["padding"]
    assert "padded from 2 to 9" in service.verdicts[0].why


def test_padding_of_a_request_that_ran_alone() -> None:
    service = Service(Mean(), TEXT, [torch.zeros(1, 3, 4)])
    service.run([torch.ones(2, 3, 4)], length=3)
    assert service.look() == []
    service.run([torch.ones(2, 3, 4)], length=4)
    assert service.look() == ["padding"]


def test_a_model_that_keeps_a_state() -> None:
    service = Service(Counting(), ROWS, [torch.zeros(1, 8)])
    service.run(*rows(1.0, 2.0))
    assert causes(service) == ["model"]
    assert "gives two answers to the same request" in service.verdicts[0].why


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


class Hash(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return ids // 1000 % 97


class Token(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).argmax(-1)


def errs(model: nn.Module, leaves: Sequence[Tensor]) -> list[Tensor]:
    """An engine that is right for most inputs."""
    (x,) = leaves
    with torch.no_grad():
        if isinstance(model, Ids):
            return [model.table.weight[x.clamp(0, 9)]]
        if isinstance(model, Hash):
            return [model(x.to(torch.int32)).to(torch.int64)]
        if isinstance(model, Token):
            return [torch.where(x[:, 0] > 2.0, (model(x) + 1) % 50, model(x))]
        return [torch.where(x > 2.0, model(x) * 1.01, model(x))]


IDS = signature([("rows", 3)], [("rows", 3, 4)], x0="int64")
INTS = signature([("rows", 3)], [("rows", 3)], x0="int64", y0="int64")
TOKENS = signature([("rows", 8)], [("rows",)], y0="int64")


@pytest.mark.parametrize(
    ("model", "shapes", "right", "wrong", "says"),
    [
        (nn.Tanh(), ROWS, torch.ones(1, 8), torch.full((1, 8), 3.0), "output 0 at (0, "),
        (Ids(), IDS, torch.tensor([[1, 2, 9]]), torch.tensor([[1, 2, 10]]), "raises IndexError"),
        (Hash(), INTS, torch.tensor([[1, 2, 9]]), torch.tensor([[1, 2, 2**40]]), "at (0, 2) is"),
        (Token(), TOKENS, torch.ones(1, 8), torch.full((1, 8), 3.0), "output 0 at (0,) is"),
    ],
    ids=["a value", "an error swallowed", "integers narrowed", "another token"],
)
def test_a_plan_that_errs_on_some_inputs(
    model: nn.Module, shapes: Any, right: Tensor, wrong: Tensor, says: str
) -> None:
    service = Service(model, shapes, [right], engine=lambda leaves: errs(model, leaves))
    for _ in range(10):
        service.run([right])
        service.run([right], [right])
    assert service.look() == []
    service.run([right], [wrong], [right])
    assert causes(service) == ["plan"]
    assert says in service.verdicts[0].why


def test_the_models_own_fault_is_not_put_down_to_the_plan() -> None:
    def faithful(leaves: Sequence[Tensor]) -> list[Tensor]:
        return [MaxOverTime()(*leaves)]

    service = Service(MaxOverTime(), TEXT, [torch.zeros(1, 3, 4)], engine=faithful)
    service.run([torch.rand(1, 9, 4)], [-torch.rand(1, 2, 4)])
    assert causes(service) == ["padding"]


def test_what_does_not_happen_again_is_put_down_by_elimination() -> None:
    model = nn.Tanh()
    service = Service(model, ROWS, [torch.zeros(1, 8)])
    service.engine, service.plan = lambda leaves: [model(*leaves) + 1], "original"
    service.run(*rows(1.0, 2.0))
    assert causes(service) == ["batching"]
    assert "by elimination" in service.verdicts[0].why


class Deep(nn.Module):
    """A masked encoder with what rounding touches most: a probability near one, a distance of
    near-equal points, a position, a token."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(32, 40)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        missing = (x == 0).all(-1)
        states = self.layers(x, src_key_padding_mask=missing)
        states = states.masked_fill(missing.unsqueeze(-1), 0.0)
        mean = states.sum(1) / (~missing).sum(1, keepdim=True)
        scores = self.head(mean)
        best = scores.amax(-1, keepdim=True)
        near = mean + 1e-3 * scores[:, :32]
        return (
            states, mean, scores.argmax(-1), 1 - torch.sigmoid(4 * best),
            (mean - near).norm(dim=-1), scores.sort(-1).indices, (scores > 0).sum(-1),
        )  # fmt: skip


DEEP = signature(
    [("rows", "length", 32)],
    [("rows", "length", 32), ("rows", 32), ("rows",), ("rows", 1), ("rows",), ("rows", 40),
     ("rows",)],
    y2="int64", y5="int64", y6="int64",
)  # fmt: skip


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fused attention"])
def test_a_right_model_is_never_accused(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over thousands of answers: batches of all sizes, padded and not."""
    monkeypatch.setattr("evolve.watch.watch.rate", lambda checked: 1.0)
    torch.manual_seed(0)
    model = Deep().eval()
    previous, threads = torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        service = Service(model, DEEP, [torch.randn(1, 5, 32)])
        rng = torch.Generator().manual_seed(1)
        for _ in range(260):
            count = int(torch.randint(1, 17, (1,), generator=rng))
            calls = [[_text(rng)] for _ in range(count)]
            service.run(*calls, length=25 if count == 1 else None)
            assert service.look() == [], service.verdicts
    finally:
        torch.backends.mha.set_fastpath_enabled(previous)
        torch.set_num_threads(threads)
    assert service.watch.status()["checked"] > 2_000
    assert service.watch.status()["skipped"] == {}


def _text(rng: torch.Generator) -> Tensor:
    rows, length = (int(n) for n in torch.randint(1, 24, (2,), generator=rng))
    scale = 10.0 ** float(torch.randint(-3, 4, (1,), generator=rng))
    return scale * torch.randn(1 + rows % 2, length, 32, generator=rng)


def test_an_exact_plan_may_round_as_its_error_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)).eval()

    def rounded(leaves: Sequence[Tensor]) -> list[Tensor]:
        want = model(*leaves).detach()
        return [want + 8e-5 * want.norm() / want.numel() ** 0.5 * torch.randn(want.shape)]

    service = Service(model, ROWS, [torch.zeros(1, 8)], engine=rounded, error=1e-4)
    for _ in range(100):
        service.run([torch.randn(2, 8)])
    assert service.look() == []


def quantised(most: float, wrong: float = 0.0) -> tuple[nn.Module, Any]:
    """A model and an engine whose relative error is about `most`, `wrong` where x[0] > 2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)).eval()

    def engine(leaves: Sequence[Tensor]) -> list[Tensor]:
        want = model(*leaves).detach()
        noise = torch.randn(want.shape) * want.norm(dim=-1, keepdim=True) / 8**0.5
        share = torch.where(leaves[0][:, :1] > 2.0, wrong or most, most)
        return [want + share * noise]

    return model, engine


@pytest.mark.parametrize(
    ("most", "wrong", "found"),
    [(0.004, 0.0, []), (0.02, 0.0, ["plan"]), (0.004, 0.3, ["plan"])],
    ids=["within its limit", "over it throughout", "wrong now and then"],
)
def test_a_less_exact_plan_is_held_to_the_limit(
    most: float, wrong: float, found: list[str]
) -> None:
    model, engine = quantised(most, wrong)
    service = Service(model, ROWS, [torch.zeros(1, 8)], engine=engine, error=0.004)
    for i in range(120):
        x = torch.randn(1, 8).clamp(-1.9, 1.9)
        if i % 40 == 39:
            x[0, 0] = 2.5
        service.run([x])
        if service.look():
            break
    assert service.look() == found


def test_a_request_near_zero_is_no_violation_and_a_share_needs_evidence() -> None:
    model, engine = quantised(0.004)
    service = Service(model, ROWS, [torch.zeros(1, 8)], engine=lambda leaves: [
        *(answer + 1e-3 * (leaves[0][:, :1] == 0) for answer in engine(leaves))
    ], error=0.004)  # fmt: skip
    for _ in range(30):
        service.run([torch.randn(1, 8)])
    service.run([torch.zeros(1, 8)])
    assert service.look() == []
    top1 = Limit("top1", 0.05)
    now_and_then = Service(model, ROWS, [torch.zeros(1, 8)], limit=top1, error=0.01, engine=(
        lambda leaves: [model(*leaves).detach() * torch.where(leaves[0][:, :1] > 1.5, -1, 1)]
    ))  # fmt: skip
    for i in range(60):
        x = torch.zeros(1, 8).uniform_(-1, 1)
        x[0, 0] = 1.6 if i % 30 == 0 else 0.0
        now_and_then.run([x])
    assert now_and_then.look() == []
    for _ in range(20):
        now_and_then.run([torch.full((1, 8), 1.6)])
    assert causes(now_and_then) == ["plan"]


def test_a_check_without_memory_accuses_nobody() -> None:
    class Starved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")

    service = Service(Starved(), ROWS, [torch.zeros(1, 8)], engine=lambda leaves: [leaves[0] * 2])
    service.run(*rows(1.0))
    assert service.look() == []
    assert service.watch.status()["skipped"] == {"not judged: out of memory": 1}
