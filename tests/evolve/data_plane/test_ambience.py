"""What is in force around a call decides what the model answers: the same is in force for the
runtime, whichever thread computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import evolve
from evolve.data_plane.ambience import Ambience

X = torch.linspace(-2, 2, 16).reshape(2, 8)


class Doubled(TorchFunctionMode):
    """Whoever calls `relu` under it gets twice as much."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        return 2 * answer if func is torch.nn.functional.relu else answer


class Negated(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        return -answer if func is torch.ops.aten.addmm.default else answer


class Makes(torch.nn.Module):
    """Makes a tensor in ``forward``, on the default device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.arange(3) if x.sum() > 100 else torch.arange(4)


@pytest.fixture(scope="module", params=["thread", "process"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[torch.nn.Module, evolve.Runtime]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    config = evolve.Config().replace(
        plans={"build": False, "cache_dir": tmp_path_factory.mktemp("cache")},
        workers={"kind": request.param},
    )
    with evolve.wrap(model.eval(), (X,), slo=evolve.SLO(600_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        yield model, runtime


def ways(runtime: evolve.Runtime) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [
        runtime,
        lambda x: runtime.submit(x).result(timeout=60),
        lambda x: asyncio.run(runtime.asubmit(x)),
    ]


AMBIENCES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference": torch.inference_mode,
    "function mode": Doubled,
    "dispatch mode": Negated,
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("ambience", AMBIENCES.values(), ids=AMBIENCES)
def test_a_call_answers_as_the_model_does_there(
    served: tuple[torch.nn.Module, evolve.Runtime],
    ambience: Callable[[], AbstractContextManager[Any]],
) -> None:
    model, runtime = served
    for ask in ways(runtime):
        with torch.no_grad(), ambience():
            want = model(X)
            got = ask(X)
        assert got.dtype == want.dtype
        assert torch.allclose(got, want, atol=1e-6)
    with torch.no_grad():
        plain = model(X)
    assert all(torch.allclose(ask(X), plain, atol=1e-6) for ask in ways(runtime))


def test_what_is_in_force_at_the_call_counts_not_at_the_answer(
    served: tuple[torch.nn.Module, evolve.Runtime],
) -> None:
    _, runtime = served
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [runtime.submit(X) for _ in range(8)]
        with torch.autocast("cpu", enabled=False):
            switched_off = runtime.submit(X)
    outside = [runtime.submit(X) for _ in range(8)]
    assert {future.result(timeout=60).dtype for future in inside} == {torch.bfloat16}
    assert {f.result(timeout=60).dtype for f in (switched_off, *outside)} == {torch.float32}
    assert any("autocast is on: torch.bfloat16" in d.reason for d in runtime.decisions(100))


def test_a_transform_of_torch_func_goes_through(
    served: tuple[torch.nn.Module, evolve.Runtime],
) -> None:
    model, runtime = served
    for ask in (runtime, lambda x: runtime.submit(x).result(timeout=60)):
        assert torch.allclose(torch.func.vmap(ask)(X), model(X), atol=1e-6)
    assert all(plan.state.value != "quarantined" for plan in runtime.plans())


def test_weights_cast_for_a_call_keep_their_gradient_for_their_owner(
    served: tuple[torch.nn.Module, evolve.Runtime],
) -> None:
    """Autocast remembers cast weights for the process: ours, without gradient, must not count."""
    model, runtime = served
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ask in ways(runtime):
            ask(X)
        loss = model(X).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()


@pytest.mark.parametrize("example", [(X,), (X, object())], ids=["captured", "not captured"])
def test_a_tensor_made_in_forward_lies_on_the_callers_default_device(
    config: evolve.Config, example: tuple[Any, ...]
) -> None:
    class Told(Makes):
        def forward(self, x: torch.Tensor, told: object = None) -> torch.Tensor:
            return super().forward(x)

    model = (Makes() if len(example) == 1 else Told()).eval()
    with evolve.wrap(model, example, slo=evolve.SLO(600_000.0), config=config) as runtime:
        assert runtime.wait_for_plans(60)
        for ask in ways(runtime):
            with torch.device("meta"):
                assert ask(X).is_meta
            with torch.device("cpu"):
                assert ask(X).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("around", ["bfloat16", "inference"])
def test_a_model_is_learnt_as_it_is_whatever_is_in_force_around_wrap(
    config: evolve.Config, mlp: torch.nn.Module, around: str
) -> None:
    with AMBIENCES[around]():
        runtime = evolve.wrap(mlp, (X,), slo=evolve.SLO(600_000.0), config=config)
    with runtime:
        assert runtime.wait_for_plans(60)
        assert runtime.status()["capture"]["program"] == "exported"
        for ask in ways(runtime):
            answer = ask(X)
            assert answer.dtype == torch.float32
            assert not answer.is_inference()
            assert torch.allclose(answer, mlp(X), atol=1e-6)


def test_nothing_in_force_is_nothing() -> None:
    assert Ambience.of_caller() is None
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        assert Ambience.of_caller() is None
    with torch.device("cpu"):
        here = Ambience.of_caller()
    assert here is not None
    assert here.obstacle("cpu") is None
