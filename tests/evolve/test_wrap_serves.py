"""`wrap` serves whatever model it is given, with the model's own answers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evolve
from tests.supernet.models import Wrapped, noise


class Named(Tensor):
    """A subclass of no particular behaviour."""


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("there is only one")


class Bound(nn.Linear):
    """Knows the very modules that it was made with."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self._made_as = id(self)

    def forward(self, x: Tensor) -> Tensor:
        if id(self) != self._made_as:
            raise RuntimeError("not the module that was made")
        return super().forward(x)


class Variadic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.a(sum(args)) + sum(kwargs.values())


def _with(function: Callable[..., Any], **attributes: Any) -> nn.Module:
    model = Wrapped(function, a=nn.Linear(8, 8))
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            model.register_buffer(name, value)
        else:
            setattr(model, name, value)
    return model


def _added(m: Any, x: Tensor) -> Tensor:
    return m.a(x) + m.b


def _own_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(m.a(x).pow(2).sum(), x)[0]


def _callers_gradient(m: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(m.a(x).pow(2).sum(), x, create_graph=True)[0]


def _quantized(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


def _frozen() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(8, 8)


def _filled_by_hooks() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8))
    real = {name: value.detach().clone() for name, value in model[0].named_parameters()}

    def fill(module: nn.Module, args: Any) -> None:
        module._parameters.update({k: nn.Parameter(v) for k, v in real.items()})

    def empty(module: nn.Module, args: Any, output: Tensor) -> None:
        module._parameters.update(
            {k: nn.Parameter(torch.empty_like(v, device="meta")) for k, v in real.items()}
        )

    model.to("meta")
    model[0].register_forward_pre_hook(fill)
    model[0].register_forward_hook(empty)
    return model


def _subclassed() -> nn.Module:
    model = nn.Linear(8, 8)
    model.weight = nn.Parameter(torch.Tensor._make_subclass(Named, model.weight.data))
    return model


def _replaced() -> nn.Module:
    model = nn.Linear(8, 8)
    inner = model.forward

    @functools.wraps(inner)
    def doubled(*args: Any, **kwargs: Any) -> Tensor:
        return inner(*args, **kwargs) * 2

    model.forward = doubled  # type: ignore[method-assign]
    return model


def _spread() -> nn.Module:
    return _with(lambda m, x: m.a(x), unused=nn.Linear(2, 2, device="meta"))


X = noise(2, 8)
COMPLEX = torch.complex(noise(8), noise(8, 1)[:, 0])

MODELS: dict[str, Callable[[], nn.Module]] = {
    "sparse buffer": lambda: _with(
        lambda m, x: torch.sparse.mm(m.b, m.a(x).T).T, b=torch.eye(8).to_sparse()
    ),
    "quantized buffer": lambda: _with(
        lambda m, x: m.a(x) + m.b.dequantize(), b=_quantized(noise(8))
    ),
    "conjugate buffer": lambda: _with(lambda m, x: m.a(x) + m.b.imag, b=COMPLEX.conj()),
    "negative buffer": lambda: _with(_added, b=torch._neg_view(noise(8))),
    "subclassed buffer": lambda: _with(_added, b=noise(8).as_subclass(Named)),
    "subclassed parameter": _subclassed,
    "inference mode": _frozen,
    "weights filled by hooks": _filled_by_hooks,
    "a part on another device": _spread,
    "parametrized": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "gradients of its own": lambda: _with(_own_gradient),
    "gradients of the caller's": lambda: _with(_callers_gradient),
    "a lock": lambda: _with(lambda m, x: m.a(x), lock=threading.Lock()),
    "a generator": lambda: _with(lambda m, x: m.a(x), items=(i for i in range(3))),
    "no copy": lambda: Uncopyable(8, 8),
    "a copy that does not run": Bound,
    "uninitialised": lambda: nn.Sequential(nn.LazyLinear(4)),
    "compiled": lambda: torch.compile(nn.Linear(8, 8), backend="eager"),  # type: ignore[return-value]
    "data parallel": lambda: nn.DataParallel(nn.Linear(8, 8)),
    "no weights": lambda: nn.ReLU(),
    "any arguments": Variadic,
    "forward replaced": _replaced,
    "widths by value": lambda: _with(
        lambda m, x: m.a(x)[:, : 1 + int(x.abs().sum().item() * 1e3) % 3]
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_served(name: str, config: evolve.Config) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with evolve.wrap(model, (X,), config=config) as runtime:
        for x in (X, X * 2, noise(5, 8)):
            got, queued = runtime(x), runtime.submit(x).result(timeout=30)
            want = model(x).detach()
            assert not got.requires_grad
            assert not queued.requires_grad
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(queued, want)


def test_numbers_other_than_the_first_examples_are_left_to_the_model(
    config: evolve.Config,
) -> None:
    model = _with(lambda m, x, k: m.a(x) * k).eval()
    with evolve.wrap(model, [(X, 3), (X, 5)], config=config) as runtime:
        assert "argument 1 must be 3, got 5" in str(runtime.parts.serving.capture.reason)
        for k in (3, 5, 7):
            torch.testing.assert_close(runtime(X, k), model(X, k).detach())


def test_optional_arguments_may_be_in_some_examples(config: evolve.Config) -> None:
    def forward(m: Any, x: Tensor, shift: Tensor | None = None) -> Tensor:
        return m.a(x) if shift is None else m.a(x) + shift

    model = _with(forward).eval()
    with evolve.wrap(model, [(X,), (X, noise(8))], config=config) as runtime:
        torch.testing.assert_close(runtime(X), model(X).detach())
        torch.testing.assert_close(runtime(X, noise(8)), model(X, noise(8)).detach())


def _cached(m: Any, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    past = torch.cat([past, x], 1)
    return m.a(past).cumsum(1)[:, -x.shape[1] :], past


@pytest.mark.parametrize("first", [0, 3])
def test_a_cache_may_be_empty_at_first(first: int, config: evolve.Config) -> None:
    def call(past: int) -> tuple[Tensor, Tensor]:
        return noise(1, 2, 8), noise(1, past, 8)

    model = _with(_cached).eval()
    lengths = (first, 3 - first, 4, 5) if first else (0,)
    with evolve.wrap(model, [call(n) for n in lengths], config=config) as runtime:
        assert runtime.parts.serving.capture.exported
        for past in (0, 1, 3, 4, 9):
            for got, want in zip(runtime(*call(past)), model(*call(past)), strict=True):
                torch.testing.assert_close(got, want.detach())


def test_a_cache_that_the_model_extends_is_extended(config: evolve.Config) -> None:
    def forward(m: Any, x: Tensor, past: list[Tensor]) -> Tensor:
        past.append(x)
        return m.a(torch.stack(past).sum(0))

    model = _with(forward).eval()
    mine: list[Tensor] = [X]
    with evolve.wrap(model, (X, [X]), config=config) as runtime:
        for count in (2, 3, 4):
            want = model(X, list(mine)).detach()
            torch.testing.assert_close(runtime(X, mine), want)
            assert len(mine) == count


def test_a_length_with_code_of_its_own_goes_to_the_model(config: evolve.Config) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.a(x) if 4 < x.shape[1] != 12 else x * 2

    model = _with(forward).eval()
    examples = [(noise(1, n, 8),) for n in (8, 10, 16)]
    with evolve.wrap(model, examples, config=config) as runtime:
        capture = runtime.parts.serving.capture
        assert capture.exported
        assert "lengths other than 5-11" in str(capture.reason)
        for length in (2, 4, 5, 9, 11, 12, 13, 20):
            x = noise(1, length, 8)
            torch.testing.assert_close(runtime(x), model(x).detach())
            if not 5 <= length <= 11:
                with pytest.raises(Exception, match="length must be between"):
                    capture.flatten((x,), {})
