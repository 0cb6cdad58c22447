"""The wrapped model is a drop-in for the model, whatever is thrown at it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest
import torch

import evolve
from tests.evolve.conftest import encoder_call


def same(got: Any, want: Any) -> bool:
    if isinstance(want, torch.Tensor):
        return got.dtype == want.dtype and torch.allclose(got, want, atol=1e-5)
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(same(got[k], want[k]) for k in want)
    return type(got) is type(want) and all(map(same, got, want))


def test_a_call_answers_as_the_model_does(runtime: evolve.Runtime, mlp: torch.nn.Module) -> None:
    x = torch.randn(3, 8)
    assert same(runtime(x), mlp(x))
    assert same(runtime(input=x), mlp(x))


def test_submit_and_asubmit_answer_as_the_model_does(
    runtime: evolve.Runtime, mlp: torch.nn.Module
) -> None:
    x = torch.randn(1, 8)
    assert same(runtime.submit(x).result(timeout=30), mlp(x))
    assert same(asyncio.run(runtime.asubmit(x)), mlp(x))


def test_many_lengths_at_once_each_get_their_own_answer(
    encoder: torch.nn.Module, config: evolve.Config
) -> None:
    calls = [encoder_call(3 + i % 17, rows=1 + i % 3, seed=i) for i in range(120)]
    examples = [encoder_call(3), encoder_call(19)]
    with evolve.wrap(encoder, examples, slo=evolve.SLO(60_000.0), config=config) as runtime:
        futures = [runtime.submit(**call) for call in calls]
        for call, future in zip(calls, futures, strict=True):
            assert same(future.result(timeout=60), encoder(**call))
        status = runtime.status()
    assert status["counts"]["met"] == len(calls)
    # Fewer batches than requests: like lengths did share batches.
    assert 0 < status["padded_ratio"] < 0.5


def test_answers_own_their_memory(encoder: torch.nn.Module, config: evolve.Config) -> None:
    """A kept answer must not keep its whole batch, nor be a view that `.view()` refuses."""
    with evolve.wrap(
        encoder, [encoder_call(3), encoder_call(19)], slo=evolve.SLO(60_000.0), config=config
    ) as runtime:
        futures = [runtime.submit(**encoder_call(5, seed=i)) for i in range(16)]
        for future in futures:
            states = future.result(timeout=30)["states"]
            assert states.is_contiguous()
            assert states.untyped_storage().nbytes() == states.nbytes


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ((torch.randn(3, 9),), RuntimeError),
        ((torch.randn(3, 8, dtype=torch.float64),), RuntimeError),
        ((), TypeError),
        ((torch.randn(3, 8), torch.randn(3, 8)), TypeError),
    ],
    ids=["shape", "dtype", "missing", "extra"],
)
def test_bad_input_raises_what_the_model_raises(
    runtime: evolve.Runtime, mlp: torch.nn.Module, call: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error) as ours:
        runtime(*call)
    with pytest.raises(error) as theirs:
        mlp(*call)
    assert str(ours.value) == str(theirs.value)
    assert any("outside the capture" in d.reason for d in runtime.decisions())
    assert same(runtime(torch.ones(1, 8)), mlp(torch.ones(1, 8)))


def test_an_empty_batch_is_answered_by_the_original(
    runtime: evolve.Runtime, mlp: torch.nn.Module
) -> None:
    assert runtime(torch.zeros(0, 8)).shape == (0, 4)
    assert runtime.status()["counts"]["outside"] == 1


def test_a_request_larger_than_any_bucket_is_answered_by_the_original(
    runtime: evolve.Runtime, mlp: torch.nn.Module
) -> None:
    x = torch.randn(500, 8)
    assert same(runtime(x), mlp(x))
    assert runtime.status()["counts"]["outside"] == 1


def test_nan_inputs_give_nan_to_their_own_sender_only(
    runtime: evolve.Runtime, mlp: torch.nn.Module
) -> None:
    bad, good = torch.full((1, 8), float("nan")), torch.randn(1, 8)
    futures = [runtime.submit(x) for x in (good, bad, good)]
    first, middle, last = (future.result(timeout=30) for future in futures)
    assert torch.isnan(middle).all()
    assert same(first, mlp(good))
    assert same(last, mlp(good))


def test_a_bad_index_fails_its_own_sender_only(
    encoder: torch.nn.Module, config: evolve.Config
) -> None:
    with evolve.wrap(
        encoder, [encoder_call(3), encoder_call(19)], slo=evolve.SLO(60_000.0), config=config
    ) as runtime:
        calls = [encoder_call(5, seed=i) for i in range(8)]
        calls[3]["ids"][0, 0] = 10_000
        futures = [runtime.submit(**call) for call in calls]
        for i, (call, future) in enumerate(zip(calls, futures, strict=True)):
            if i == 3:
                with pytest.raises(IndexError):
                    future.result(timeout=30)
            else:
                assert same(future.result(timeout=30), encoder(**call))
        assert runtime.status()["counts"]["raised"] == 1


class Branching(torch.nn.Module):
    """torch.export can't take it: the path depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x - 1


def test_a_model_that_cannot_be_exported_is_served_and_says_why(config: evolve.Config) -> None:
    model = Branching().eval()
    with evolve.wrap(model, (torch.randn(2, 3),), config=config) as runtime:
        for x in (torch.ones(2, 3), -torch.ones(2, 3)):
            assert same(runtime(x), model(x))
        captured = runtime.status()["capture"]
    assert captured["program"] != "exported"
    assert "\n" not in captured["program"]
    assert captured["batching"]["status"] == captured["padding"]["status"] == "off"


def test_the_model_is_not_changed(mlp: torch.nn.Module, config: evolve.Config) -> None:
    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    pointers = {name: value.data_ptr() for name, value in mlp.state_dict().items()}
    names = set(vars(mlp))
    with evolve.wrap(mlp, (torch.randn(2, 8),), config=config) as runtime:
        runtime(torch.randn(2, 8))
    after = mlp.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert pointers == {name: value.data_ptr() for name, value in after.items()}
    assert set(vars(mlp)) == names
    assert not mlp.training


def test_late_work_is_refused_early_and_said(mlp: torch.nn.Module, config: evolve.Config) -> None:
    release = threading.Event()

    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            release.wait(30)
            return x * 2

    model = Slow().eval()
    release.set()
    with evolve.wrap(model, (torch.ones(1, 2),), slo=evolve.SLO(20.0), config=config) as runtime:
        release.clear()
        held = runtime.submit(torch.ones(1, 2))
        while not runtime.status()["busy_lanes"]:
            threading.Event().wait(0.001)
        late = [runtime.submit(torch.ones(1, 2)) for _ in range(5)]
        threading.Event().wait(0.03)  # past their deadline, which is a real clock's
        release.set()
        assert same(held.result(timeout=30), torch.full((1, 2), 2.0))
        for future in late:
            with pytest.raises(evolve.DeadlineExceeded, match="can no longer be met"):
                future.result(timeout=30)
        assert runtime.status()["counts"]["refused"] == 5


def test_a_full_queue_refuses_at_once(mlp: torch.nn.Module, config: evolve.Config) -> None:
    release = threading.Event()
    release.set()

    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            release.wait(30)
            return x

    slo = evolve.SLO(60_000.0)
    with evolve.wrap(
        Slow().eval(), (torch.ones(1, 2),), slo=slo, config=config.replace(queue_limit=3)
    ) as runtime:
        release.clear()
        futures: list[Future[Any]] = [runtime.submit(torch.ones(1, 2))]
        while not runtime.status()["busy_lanes"]:
            threading.Event().wait(0.001)
        futures += [runtime.submit(torch.ones(1, 2)) for _ in range(4)]
        with pytest.raises(evolve.QueueFull, match=r"queue_limit \(3\)"):
            futures[-1].result(timeout=1)
        release.set()
        assert all(same(f.result(timeout=30), torch.ones(1, 2)) for f in futures[:-1])


def test_closing_fails_what_waits_and_refuses_what_comes(
    mlp: torch.nn.Module, config: evolve.Config
) -> None:
    runtime = evolve.wrap(mlp, (torch.randn(1, 8),), config=config)
    runtime.close()
    runtime.close()
    with pytest.raises(evolve.RuntimeClosed):
        runtime.submit(torch.randn(1, 8))
    with pytest.raises(evolve.RuntimeClosed):
        runtime(torch.randn(1, 8))


def test_a_cancelled_request_is_not_answered(mlp: torch.nn.Module, config: evolve.Config) -> None:
    release = threading.Event()
    release.set()
    seen: list[float] = []

    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            release.wait(30)
            seen.extend(x[:, 0].tolist())
            return x

    slo = evolve.SLO(60_000.0)
    with evolve.wrap(Slow().eval(), (torch.ones(1, 2),), slo=slo, config=config) as runtime:
        seen.clear()  # of what the capture tried
        release.clear()
        first = runtime.submit(torch.full((1, 2), 7.0))
        while not runtime.status()["busy_lanes"]:
            threading.Event().wait(0.001)
        second = runtime.submit(torch.full((1, 2), 8.0))
        third = runtime.submit(torch.full((1, 2), 9.0))
        assert second.cancel()
        release.set()
        first.result(timeout=30)
        third.result(timeout=30)
    assert 7.0 in seen
    assert 9.0 in seen
    assert 8.0 not in seen


def test_concurrent_callers_never_get_each_others_answers(
    runtime: evolve.Runtime, mlp: torch.nn.Module
) -> None:
    wrong: list[int] = []

    def caller(seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        for _ in range(50):
            x = torch.randn(1 + seed % 3, 8, generator=rng)
            if not same(runtime(x), mlp(x).detach()):
                wrong.append(seed)

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert runtime.status()["counts"]["met"] + runtime.status()["counts"]["late"] == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "not a model"}, "model must be a torch.nn.Module, got str"),
        ({"example_inputs": torch.ones(2)}, "must be a tuple of arguments or a dict"),
        ({"example_inputs": []}, "at least one example"),
    ],
)
def test_wrap_names_the_bad_argument(
    mlp: torch.nn.Module, config: evolve.Config, arguments: dict[str, Any], message: str
) -> None:
    given = {"model": mlp, "example_inputs": (torch.ones(1, 8),), "config": config, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        evolve.wrap(given.pop("model"), given.pop("example_inputs"), **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p99_ms": 0}, "p99_ms must be a positive number of milliseconds, got 0"),
        ({"p99_ms": float("nan")}, "p99_ms must be a positive number"),
        ({"max_error": 1.5}, r"max_error must be in \[0, 1\), got 1.5"),
        ({"metric": "l1"}, "metric must be one of relative_l2, cosine, top1, got 'l1'"),
        ({"min_quality": 0}, "min_quality must be above 0 and at most 1, got 0"),
        ({"min_quality": float("nan")}, "min_quality must be above 0 and at most 1, got nan"),
        ({"agreement": "l2"}, "agreement must be one of cosine, top1, got 'l2'"),
    ],
)
def test_slo_names_the_rule(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evolve.SLO(**arguments)
