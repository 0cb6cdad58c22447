"""Each way to change a model is noticed, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from evolve.data_plane.weights import SAMPLED, Weights, unlike


class Model(nn.Module):
    """A parameter shared by two layers, buffers, a plain attribute, an adapter's switch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.scale = 1.0
        self.adapted = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.second(torch.relu(self.first(x)))) * self.scale
        return out + x if self.adapted else out


def _add(model: Model) -> None:
    with torch.no_grad():
        model.first.bias.add_(1.0)


def _load(model: Model) -> None:
    model.load_state_dict({name: value + 1 for name, value in Model().state_dict().items()})


def _step(model: Model, *, fused: bool = False) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(model.parameters(), lr=0.1, fused=fused).step()


def _own_forward(model: Model) -> None:
    model.first.forward = lambda x: x  # type: ignore[method-assign]


def _tied_no_more(model: Model) -> None:
    model.second.weight = nn.Parameter(model.first.weight.detach().clone())


NOTICED: dict[str, Callable[[Model], object]] = {
    "in place": _add,
    "load_state_dict": _load,
    "an optimizer's step": _step,
    "inference mode": lambda m: torch.inference_mode()(lambda: m.first.bias.add_(1.0))(),
    "a new .data": lambda m: setattr(m.first.bias, "data", torch.ones(4)),
    "another parameter": lambda m: setattr(m.first, "bias", nn.Parameter(torch.ones(4))),
    "no parameter": lambda m: setattr(m.first, "bias", None),
    "tied no more": _tied_no_more,
    "another module": lambda m: setattr(m, "first", nn.Linear(4, 4)),
    "another module inside": lambda m: m.add_module("third", nn.Identity()),
    "a module less": lambda m: delattr(m, "norm"),
    "a buffer written to": lambda m: m.norm.running_mean.add_(1.0),  # type: ignore[union-attr,operator]
    "another buffer": lambda m: m.norm.register_buffer("running_mean", torch.ones(4)),
    "training mode": lambda m: m.train(),
    "training mode of a part": lambda m: m.norm.train(),
    "half": lambda m: m.half(),
    "a hook": lambda m: m.first.register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m.first.register_forward_pre_hook(lambda *_: None),
    "a parametrization": lambda m: nn.utils.parametrizations.weight_norm(m.second),
    "an attribute": lambda m: setattr(m, "scale", 2.0),
    "a switch": lambda m: setattr(m, "adapted", False),
    "another forward": _own_forward,
}


@pytest.mark.parametrize("change", NOTICED.values(), ids=NOTICED.keys())
def test_a_change_is_noticed_at_the_next_look_and_once(change: Callable[[Model], object]) -> None:
    model = Model().eval()
    weights = Weights(model)
    assert weights.moved() is None
    change(model)
    assert weights.moved() is not None
    weights.begin()
    assert [weights.moved() for _ in range(5)] == [None] * 5


@pytest.mark.parametrize("change", NOTICED.values(), ids=NOTICED.keys())
def test_a_fingerprint_tells_the_model_before_from_the_model_after(
    change: Callable[[Model], object],
) -> None:
    model = Model().eval()
    weights = Weights(model)
    before = weights.fingerprint()
    assert weights.fingerprint() == before
    change(model)
    assert weights.fingerprint() != before


def test_what_changed_is_named() -> None:
    model = Model().eval()
    weights = Weights(model)
    _add(model)
    assert weights.moved() == "first.bias was written to"
    model.norm.train()
    assert weights.moved() == "module 'norm' went to training mode"
    model.scale = 3.0
    assert weights.moved() == "scale was replaced"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert weights.moved() == "a hook on all modules was added or removed"
    finally:
        handle.remove()
    assert weights.moved() == "a hook on all modules was added or removed"


UNVERSIONED: dict[str, Callable[[Model], object]] = {
    "written through .data": lambda m: m.first.weight.data.mul_(2.0),
    "written through NumPy": lambda m: m.norm.bias.detach().numpy().fill(3.0),
    "a fused optimizer's step": lambda m: _step(m, fused=True),
}


@pytest.mark.parametrize("change", UNVERSIONED.values(), ids=UNVERSIONED.keys())
def test_a_tensor_written_as_a_whole_without_a_version_is_noticed_by_its_values(
    change: Callable[[Model], object],
) -> None:
    model = Model().eval()
    weights = Weights(model)
    change(model)
    tensors = len(list(model.parameters())) + len(list(model.buffers()))
    looks = 2 + tensors // SAMPLED
    assert any(weights.moved() is not None for _ in range(looks))


def _nothing(model: Model) -> None:
    pass


UNMOVED: dict[str, Callable[[Model], object]] = {
    "nothing": _nothing,
    "a call": lambda m: m(torch.ones(2, 4)),
    "requires_grad_": lambda m: m.requires_grad_(False),
    "eval again": lambda m: m.eval(),
    "a copy of it": lambda m: m.state_dict(),
    "gradients": lambda m: m(torch.ones(2, 4)).sum().backward(),
    "the same weights read": lambda m: m.first.weight.detach().numpy().sum(),
}


@pytest.mark.parametrize("use", UNMOVED.values(), ids=UNMOVED.keys())
def test_using_a_model_is_no_change(use: Callable[[Model], object]) -> None:
    model = Model().eval()
    weights = Weights(model)
    use(model)
    assert [weights.moved() for _ in range(5)] == [None] * 5


def test_nan_is_equal_to_itself() -> None:
    model = Model().eval()
    model.scale = float("nan")
    with torch.no_grad():
        model.first.weight.fill_(float("nan"))
    weights = Weights(model)
    assert [weights.moved() for _ in range(5)] == [None] * 5


def test_tensors_without_versions_or_storage_are_looked_at_all_the_same() -> None:
    with torch.inference_mode():
        made = nn.Linear(2, 2)
    model = nn.Sequential(made, nn.Linear(2, 2, device="meta"), nn.LazyLinear(3))
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("strided", torch.ones(4, 6).t())
    weights = Weights(model)
    assert [weights.moved() for _ in range(5)] == [None] * 5
    with torch.inference_mode():
        made.weight.mul_(0.0)
    assert any(weights.moved() is not None for _ in range(3))


class Remembers(nn.Module):
    """Its answers depend on nothing but the input; it keeps the last length all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.shape[0]
        return x * 2


def test_what_the_models_own_forward_changes_counts_for_nothing() -> None:
    model, copy = Remembers(), Remembers()
    weights = Weights(model)
    copy(torch.ones(3))
    weights.ignore(unlike(model, copy))
    before = weights.fingerprint()
    model(torch.ones(5))
    assert weights.moved() is None
    assert weights.fingerprint() == before
    model.train(not model.training)
    assert weights.moved() is not None
