"""A sample of live inputs: bounded, of late ones, copied seldom, and never on a disk."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import evolve
from evolve.monitoring.reservoir import HORIZONS, Reservoir, handed_over


def one(value: float, columns: int = 1) -> list[Tensor]:
    """The leaves of a request."""
    return [torch.full((1, columns), value)]


def filled(requests: int, of: int, mib: float = 1.0, seed: int = 0) -> Reservoir:
    reservoir = Reservoir(requests, mib, random.Random(seed))
    for value in range(of):
        reservoir.offer([one(float(value))])
    return reservoir


def values(reservoir: Reservoir) -> list[int]:
    return sorted(int(leaves[0][0, 0]) for leaves in reservoir.snapshot())


def test_it_keeps_all_until_it_is_full() -> None:
    assert values(filled(32, 32)) == list(range(32))
    assert len(filled(32, 5_000)) == 32


def test_while_young_each_request_is_in_it_equally_likely() -> None:
    counts = [0] * 4
    for seed in range(400):
        for value in values(filled(8, 80, seed=seed)):
            counts[value // 20] += 1
    due = 400 * 8 / 4
    assert all(abs(count - due) < 5 * due**0.5 for count in counts), counts


def test_once_old_late_requests_are_likelier() -> None:
    keeps, horizon = 8, 8 * HORIZONS
    ages = [40 * horizon - v for s in range(8) for v in values(filled(keeps, 40 * horizon, seed=s))]
    assert max(ages) < 12 * horizon, "what is long past is gone"
    assert 0.4 * horizon < sum(ages) / len(ages) < 1.8 * horizon, "exponential, of that mean"


def test_the_same_seed_keeps_the_same() -> None:
    assert values(filled(16, 2_000, seed=3)) == values(filled(16, 2_000, seed=3))
    assert values(filled(16, 2_000, seed=3)) != values(filled(16, 2_000, seed=4))


def test_it_takes_no_more_memory_than_it_may() -> None:
    reservoir = Reservoir(1_000, 0.01, random.Random(0))
    for value in range(400):
        reservoir.offer([one(float(value), columns=1 + 100 * (value % 5))])
        assert reservoir.mib <= 0.01
    kept = sum(leaf.nbytes for leaves in reservoir.snapshot() for leaf in leaves)
    assert reservoir.mib == kept / 2**20
    before = reservoir.snapshot()
    reservoir.offer([one(0.0, columns=4_000)])
    assert reservoir.snapshot() == before, "one that is larger than all the room is left out"


def test_most_requests_are_not_copied_once_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    monkeypatch.setattr(
        "evolve.monitoring.reservoir._copied",
        lambda leaves, most: copied.append(1) or tuple(leaves),
    )
    filled(16, 16 * HORIZONS)
    copied.clear()
    filled(16, 20_000)
    assert len(copied) < 1.3 * 20_000 / HORIZONS


def test_what_is_kept_is_a_copy_and_finite() -> None:
    reservoir, x = Reservoir(8, 1.0, random.Random(0)), torch.ones(1, 2)
    reservoir.offer([[x, torch.ones(1, dtype=torch.int64)]])
    x.zero_()
    assert reservoir.snapshot()[0][0].tolist() == [[1.0, 1.0]]
    for number in (float("nan"), float("inf")):
        reservoir.offer([[torch.tensor([[1.0, number]])]])
    assert len(reservoir) == 1


def test_one_that_cannot_be_copied_is_left_out() -> None:
    reservoir = Reservoir(8, 1.0, random.Random(0))
    reservoir.offer([[torch.ones(1, 2, device="meta")], one(1.0)])
    assert values(reservoir) == [1]


def test_many_threads_may_offer() -> None:
    reservoir = Reservoir(16, 0.001, random.Random(0))

    def offer() -> None:
        for value in range(500):
            reservoir.offer([one(float(value)), one(1.0, columns=3)])

    threads = [threading.Thread(target=offer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reservoir.seen == 4_000
    assert len(reservoir) == 16
    kept = sum(leaf.nbytes for leaves in reservoir.snapshot() for leaf in leaves)
    assert reservoir.mib == kept / 2**20


@pytest.mark.parametrize(
    ("requests", "mib", "words"),
    [(0, 1.0, "requests must be at least 1, got 0"), (1, 0.0, r"mib must be above 0, got 0\.0")],
)
def test_it_has_room(requests: int, mib: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Reservoir(requests, mib, random.Random(0))


def test_another_process_reads_them_and_no_disk_does() -> None:
    inputs = filled(4, 4).snapshot()
    with handed_over(inputs) as path:
        read = load_file(path)
        assert {name: float(leaf) for name, leaf in read.items()} == {
            f"{n}.0": float(n) for n in range(4)
        }
        assert Path(path).readlink().name.startswith("memfd:")
    assert not Path(path).exists()


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
     torch.bfloat16, torch.float32, torch.float64],
)  # fmt: skip
def test_of_any_type_and_shape(dtype: torch.dtype) -> None:
    inputs = [(torch.ones(2, 3).to(dtype), torch.zeros((), dtype=dtype)), (torch.ones(0, 3),)]
    with handed_over(inputs) as path:
        read = load_file(path)
    assert set(read) == {"0.0", "0.1", "1.0"}
    assert torch.equal(read["0.0"], inputs[0][0])
    assert torch.equal(read["0.1"], inputs[0][1])
    assert read["1.0"].shape == (0, 3)


def test_all_that_is_answered_passes_by_direct_calls_too(
    mlp: torch.nn.Module, config: evolve.Config
) -> None:
    slo = evolve.SLO(1000.0, min_quality=0.9)
    config = config.replace(plans={"build": True, "backends": ("eager",)})
    with evolve.wrap(mlp, (torch.randn(2, 8),), slo=slo, config=config) as runtime:
        reservoir = runtime.parts.serving.reservoir
        assert reservoir is not None
        runtime(torch.ones(1, 8))
        runtime.submit(torch.ones(2, 8)).result(60)
        runtime(torch.full((1, 8), float("nan")))
        with pytest.raises(RuntimeError):
            runtime(torch.ones(1, 9))
        rows = sorted(leaves[0].shape[0] for leaves in reservoir.snapshot())
        assert rows == [1, 2], "but for a NaN, and what was never captured"


@pytest.mark.parametrize("changes", [{"evolution": {"reservoir": 0}}, {"plans": {"build": False}}])
def test_nothing_is_kept_where_nobody_learns_from_it(
    mlp: torch.nn.Module, config: evolve.Config, changes: dict[str, dict[str, object]]
) -> None:
    config = config.replace(plans={"build": True, "backends": ("eager",)}).replace(**changes)
    slo = evolve.SLO(1000.0, min_quality=0.9)
    with evolve.wrap(mlp, (torch.randn(2, 8),), slo=slo, config=config) as runtime:
        assert runtime.parts.serving.reservoir is None
