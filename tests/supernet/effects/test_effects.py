"""What a call does beside answering is found, and kept from being lost in a plan."""

from __future__ import annotations

import collections
import logging
import os
import random
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.backends.eager import EagerPlan
from supernet.capture.probe import agree
from supernet.capture.subject import Capture, capture
from tests.supernet.models import Wrapped, noise, seeded

_CALLS = {"n": 0}


def _with(function: Callable[..., Any], **attributes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Wrapped(function, a=nn.Linear(8, 8))
        for name, value in attributes.items():
            if isinstance(value, Tensor):
                model.register_buffer(name, value.clone())
            else:
                setattr(model, name, value)
        return model

    return make


def _latch(m: Any, x: Tensor) -> Tensor:
    m.hot.copy_(torch.maximum(m.hot, (x > 9).any().float()))
    return m.a(x) * (1 + m.hot)


def _latch_seen_through_a_view(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.hot.view(1)[0:1].clamp_(0, 1)
    return m.a(x) * (1 + m.hot)


def _latch_as_data(m: Any, x: Tensor) -> Tensor:
    m.hot.data.clamp_(0, 1)
    return m.a(x) * (1 + m.hot)


def _latch_of_large_batches(m: Any, x: Tensor) -> Tensor:
    if x.shape[0] > 1:
        m.hot.clamp_(0, 1)
    return m.a(x) * (1 + m.hot)


def _weight(m: Any, x: Tensor) -> Tensor:
    m.a.weight.data.mul_(0.5)
    return m.a(x)


def _list(m: Any, x: Tensor, past: list[Tensor]) -> Tensor:
    past.append(x)
    return m.a(torch.stack(past).sum(0))


def _dict(m: Any, x: Tensor, past: dict[str, Tensor]) -> Tensor:
    past["k"] = torch.cat([past["k"], x])
    return m.a(past["k"])[-2:]


def _tensor(m: Any, x: Tensor, past: Tensor) -> Tensor:
    past.mul_(1)  # the same value: seen all the same
    return m.a(x) + past


def _through_dropout(m: Any, x: Tensor) -> Tensor:
    return functional.dropout(
        x, 0.1, training=False
    ).relu_()  # in eval mode dropout gives its very input


def _counted(m: Any, x: Tensor) -> Tensor:
    _CALLS["n"] += 1
    return m.a(x) * (1 if _CALLS["n"] < 10**6 else 2)


def _first_batch(m: Any, x: Tensor) -> Tensor:
    if m.mean is None:
        m.mean = x.mean(0)
    return m.a(x) - m.mean


def _queue(m: Any, x: Tensor) -> Tensor:
    m.queue.append(x.mean())
    return m.a(x) + torch.stack(list(m.queue)).mean()


def _warm_up(m: Any, x: Tensor) -> Tensor:
    live = (m.n < 3).float()
    m.n.add_(live)
    m.mean.add_(live * 0.1 * (x.mean(0) - m.mean))
    return m.a(x) - m.mean


def _warm_up_in_python(m: Any, x: Tensor) -> Tensor:
    m.stats["n"] = min(m.stats["n"] + 1, 20)
    return m.a(x) * (1.0 if m.stats["n"] < 20 else 2.0)


def _kept(m: Any, x: Tensor) -> Tensor:
    m.last = m.a(x)
    return m.last * 2


def _local() -> Callable[..., Any]:
    calls = [0]

    def forward(m: Any, x: Tensor) -> Tensor:
        calls[0] += 1
        return m.a(x) * (1 if calls[0] < 10**6 else 2)

    return forward


X, PAST = noise(2, 8), noise(2, 8)
ZERO = torch.zeros(())

EFFECTS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], str]] = {
    "a latch": (_with(_latch, hot=ZERO), (X,), "changes its buffer 'hot'"),
    "a latch through a view": (
        _with(_latch_seen_through_a_view, hot=ZERO), (X,), "changes its buffer 'hot'",
    ),
    "a latch as data": (_with(_latch_as_data, hot=ZERO), (X,), "changes its buffer 'hot'"),
    "a latch of large batches": (
        _with(_latch_of_large_batches, hot=ZERO), (noise(1, 8),), "changes its buffer 'hot'",
    ),
    "a weight": (_with(_weight), (X,), "changes its parameter 'a.weight'"),
    "a list extended": (_with(_list), (X, [PAST]), "changes its arguments: .*'past'|argument 1"),
    "a dict changed": (_with(_dict), (X, {"k": PAST}), "replaces tensors in its arguments"),
    "a tensor argument": (_with(_tensor), (X, PAST), "writes into its inputs"),
    "through dropout": (_with(_through_dropout), (X,), "writes into its inputs"),
    "a global counter": (_with(_counted), (X,), r"changes its attribute .*_CALLS\['n'\]"),
    "a local counter": (_with(_local()), (X,), r"changes its attribute '_function.calls\[0\]'"),
    "set by the first batch": (_with(_first_batch, mean=None), (X,), "different answers"),
    "a queue": (
        _with(_queue, queue=collections.deque(maxlen=2)), (X,), "different answers|changes its att",
    ),
    "a buffer that warms up": (
        _with(_warm_up, n=ZERO, mean=torch.zeros(8)), (X,), "changes its buffer 'n'",
    ),
    "a dict that warms up": (
        _with(_warm_up_in_python, stats={"n": 0}), (X,), r"changes its attribute \"stats\['n'\]",
    ),
    "a result kept": (_with(_kept), (X,), "changes its attribute 'last'"),
    "random": (_with(lambda m, x: m.a(x) * random.random()), (X,), r"calls random\.random"),
    "random, hardly ever": (
        _with(lambda m, x: m.a(x) * (2 if random.random() < 1e-9 else 1)), (X,),
        r"calls random\.random",
    ),
    "a generator of Python's": (
        _with(lambda m, x: m.a(x) * (2 if m.g.random() < 1e-9 else 1), g=random.Random(1)), (X,),
        r"calls random\.random",
    ),
    "NumPy": (_with(lambda m, x: m.a(x) * np.random.rand()), (X,), "different answers"),
    "NumPy, hardly ever": (
        _with(lambda m, x: m.a(x) * (2 if np.random.rand() < 1e-9 else 1)), (X,),
        r"draws random numbers \(numpy",
    ),
    "a generator of NumPy's": (
        _with(lambda m, x: m.a(x) * (2 if m.g.random() < 1e-9 else 1), g=np.random.default_rng(0)),
        (X,), "changes its attribute 'g'",
    ),
    "a new generator of NumPy's": (
        _with(lambda m, x: m.a(x) * np.random.default_rng().random()), (X,), "calls posix.urandom",
    ),
    "a generator of torch's": (
        _with(lambda m, x: m.a(x) + torch.rand(8, generator=m.g), g=torch.Generator()), (X,),
        "draws random numbers",
    ),
    "the time": (
        _with(lambda m, x: m.a(x) * (1 if time.time() > 0 else 2)), (X,), r"calls time\.time",
    ),
    "the system's randomness": (
        _with(lambda m, x: m.a(x) * os.urandom(1)[0]), (X,), r"calls posix\.urandom",
    ),
    "an identifier": (
        _with(lambda m, x: m.a(x) * (1 + uuid.uuid4().int % 7)), (X,), r"calls posix\.urandom",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EFFECTS)
def test_a_model_with_an_effect_is_left_to_itself(name: str) -> None:
    make, example, reason = EFFECTS[name]
    model = seeded(make)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    learned = capture(model, example)
    assert learned.program is None
    assert learned.reason is not None
    assert re.search(reason, learned.reason), learned.reason
    assert not learned.signature.batchable
    for key, value in model.state_dict().items():  # the user's own tensors never felt it
        assert torch.equal(value, before[key]), key


def _table(m: Any, x: Tensor) -> Tensor:
    if m.table is None:
        m.table = torch.arange(8.0) * 0.1
    return m.a(x) + m.table


def _scratch(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).view(-1, 8)
    y[:, :2].clamp_(0, 1)
    total = torch.zeros(8)
    total += 0.5
    return functional.dropout(y, 0.1, training=False).relu_() + total


def _logged(m: Any, x: Tensor) -> Tensor:
    logging.getLogger(__name__).debug("called")  # asks for the time, if anybody listens
    return m.a(x)


PURE: dict[str, Callable[[], nn.Module]] = {
    "a tensor written out in the call": _with(
        lambda m, x: m.a(x) * torch.tensor([0.5]) + torch.isin(x.long(), torch.tensor([0, 1]))
    ),
    "ReLU in place": lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)),
    "values of its own changed in place": _with(_scratch),
    "a table made in the first call": _with(_table, table=None),
    "settings, words and helpers": _with(
        lambda m, x: m.a(x) * m.settings["scale"], settings={"scale": 2.0, "words": ["a", "b"]}
    ),
    "a log": _with(_logged),
    "hooks": lambda: _hooked(),
    "weights by parametrization": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    "a forward of its own": lambda: _replaced(),
}


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model


def _replaced() -> nn.Module:
    model = nn.Linear(8, 8)
    inner = model.forward
    model.forward = lambda x: inner(x) * 2  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("name", PURE)
def test_what_stays_inside_a_call_is_no_effect(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    model = seeded(PURE[name])
    learned = capture(model, (noise(2, 8),))
    assert learned.program is not None, learned.reason
    assert learned.signature.batchable
    _answers_agree(model, learned, noise(5, 8) * 3)


def _answers_agree(model: nn.Module, learned: Capture, x: Tensor) -> None:
    assert learned.program is not None
    given = x.clone()
    (got,) = EagerPlan(learned.program).run(learned.flatten((given,), {}).leaves)
    with torch.no_grad():
        assert agree([got], [model(x)])
    assert torch.equal(given, x)


def test_an_update_in_a_branch_is_found_in_the_graph() -> None:
    learned = capture(
        seeded(_with(_latch_of_large_batches, hot=ZERO)), [(noise(1, 8),), (noise(3, 8),)]
    )
    assert learned.program is None


def test_compiled_parts_work_after_a_capture_as_before() -> None:
    model = seeded(
        _with(lambda m, x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,)))
    )
    capture(model, (X,))
    with torch.no_grad():
        assert torch.equal(model(X.abs()), X.abs() * 2)
        assert torch.equal(model(-X.abs()), -X.abs() - 1)


def test_random_generators_are_left_as_they_were() -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    want = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    capture(_with(lambda m, x: m.a(x) * np.random.rand())().eval(), (X,))
    torch.manual_seed(5)  # making the model drew its weights
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == want
