"""What keeps a model from being captured is said in words, with the remedy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.capture.subject import capture
from supernet.effects.reasons import explained
from tests.supernet.models import Wrapped, noise, seeded


class DynamicCache:
    """As transformers names it."""


def _branch(m: Any, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x * 2
    return x


def _weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)))


def _kept_result() -> nn.Module:
    model = Wrapped(lambda m, x: m.a(x) + m.kept[0], a=nn.Linear(8, 8))
    model.kept = [model.a(noise(8))]  # type: ignore[assignment]
    return model


def _locked() -> nn.Module:
    model = nn.Linear(8, 8)
    model.lock = threading.Lock()  # type: ignore[assignment]
    return model


REASONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a cache in the result": (
        lambda: Wrapped(lambda m, x: (x, DynamicCache())), "DynamicCache.*pass use_cache=False"
    ),
    "weight norm": (_weight_norm, r"'0\.weight' is computed anew.*remove_weight_norm"),
    "a result with its gradient": (_kept_result, r"with its gradient.*detach\(\)"),
    "a branch on values": (
        lambda: Wrapped(_branch),
        r"depends on the values.*at test_reasons\.py:\d+: if x\.sum\(\) > 0:; .*torch\.where",
    ),
    "a lock": (_locked, r"of type _thread\.lock, of which there is no copy"),
    "not initialised": (
        lambda: nn.Sequential(nn.LazyLinear(4)), "not initialised.*call the model once"
    ),
    "no data": (lambda: nn.Linear(8, 8, device="meta"), r"no data \(device meta\)"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", REASONS)
def test_the_reason_names_cause_and_remedy(name: str) -> None:
    make, text = REASONS[name]
    learned = capture(seeded(make), (noise(2, 8),))
    assert learned.program is None
    with pytest.raises(RuntimeError, match=text):
        raise RuntimeError(learned.reason)


def test_rows_that_meet_are_said_beside_lengths_that_vary_apart() -> None:
    model = Wrapped(lambda m, x, y: (x - x.mean(0)).sum(1) + y.sum((1, 2)))
    examples = [(noise(2, a), noise(2, b, 8)) for a, b in ((5, 3), (6, 4), (6, 9))]
    reason = str(capture(model, examples).reason)
    assert "rows of a batch depend on each other" in reason
    assert "2 groups of dimensions vary" in reason


def test_an_error_without_an_explanation_is_shown_in_one_line() -> None:
    assert explained(KeyError("a\nb")) == "KeyError: 'a\\nb'"
    assert explained(RuntimeError("first\nsecond")) == "RuntimeError: first"


def test_scripts_are_named(recwarn: pytest.WarningsRecorder) -> None:
    model = torch.jit.script(nn.Linear(8, 8).eval())
    assert "wrap the Python module" in str(capture(model, (noise(2, 8),)).reason)
