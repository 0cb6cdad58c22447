"""Every policy keeps to the contract, and the contract notices what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from policies.bandit import LinUCB
from policies.base import Choice, Policy
from policies.baselines import RulePolicy, StaticPolicy, ThresholdPolicy
from policies.contract import BOUNDS, QUIET, PolicyContract, extremes
from policies.network import Network
from policies.observation import observation_names, observe
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS
from policies.table import TablePolicy
from policies.tactical import TacticalPolicy
from profiler.signals import Signals


class TestRule(PolicyContract):
    def make_policy(self) -> Policy:
        return RulePolicy()


class TestStatic(PolicyContract):
    def make_policy(self) -> Policy:
        return StaticPolicy(RuleParams.static(1, 4, 2.0))


class TestThreshold(PolicyContract):
    def make_policy(self) -> Policy:
        return ThresholdPolicy()


class TestTactical(PolicyContract):
    """A random network that knows the whole range, so that it decides wherever it can."""

    def make_policy(self) -> Policy:
        rng = np.random.default_rng(0)
        width = len(observation_names())
        layers = tuple(
            (rng.normal(size=(out, of)).astype(np.float32), rng.normal(size=out).astype(np.float32))
            for out, of in ((8, width), (len(PRESETS), 8))
        )
        whole = np.full(width, 1e9, np.float32)
        return TacticalPolicy(
            Network(observe(QUIET, 0), whole / whole, 10.0, -whole, whole, layers)
        )


def experience() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise around quiet signals, every preset tried, some of them worth it."""
    rng = np.random.default_rng(0)
    seen = observe(QUIET, 0) + rng.normal(scale=0.3, size=(3000, len(observation_names())))
    seen[:, 34:36] = observe(QUIET, 0)[34:36]  # the same workers and SLO
    actions = rng.integers(0, len(PRESETS), 3000)
    return seen, actions, (actions > 0) * (rng.normal(size=3000) + 0.3 * (actions % 3))


class TestLinUCB(PolicyContract):
    def make_policy(self) -> Policy:
        return LinUCB.fit(*experience(), PRESETS)


class TestTable(PolicyContract):
    def make_policy(self) -> Policy:
        return TablePolicy.fit(*experience(), PRESETS)


def test_every_field_has_bounds_and_is_shown_at_both() -> None:
    names = [field.name for field in fields(Signals)]
    assert list(BOUNDS) == names
    shown = dict(extremes())
    assert len(shown) == 5 + 2 * len(names)
    for name, bounds in BOUNDS.items():
        for side, bound in zip(("least", "most"), bounds, strict=True):
            value = getattr(shown[f"{name} at its {side}"], name)
            assert value == ((bound,) * 10 if name.startswith("arrivals_") else bound)


# -- what the contract notices ------------------------------------------------------------------

Choose = Callable[[Signals, Choice], Choice]
FINE = Choice(DEFAULT, "as usual")


class Faulty:
    """A policy that is whatever its function is."""

    def __init__(self, choose: Choose, name: str = "faulty") -> None:
        self.choose = choose
        self.name = name


def broken(**changes: object) -> Choose:
    """Always the same choice, a rule of which is broken behind its back."""
    params = RuleParams("broken")
    for name, value in changes.items():
        object.__setattr__(params, name, value)
    return lambda signals, current: Choice(params, "why not")


def counting() -> Choose:
    calls: list[int] = []

    def choose(signals: Signals, current: Choice) -> Choice:
        calls.append(1)
        return Choice(DEFAULT, f"call {len(calls)}")

    return choose


def editing(signals: Signals, current: Choice) -> Choice:
    object.__setattr__(signals, "queue", signals.queue + 1)
    return FINE


def meddling(signals: Signals, current: Choice) -> Choice:
    object.__setattr__(current, "reason", current.reason + "!")
    return FINE


def dividing(signals: Signals, current: Choice) -> Choice:
    return Choice(DEFAULT, "load", {"gap_s": 1.0 / signals.arrival_per_s})


VALID, SAME = "test_every_choice_is_valid", "test_the_same_arguments_give_the_same_choice"


@pytest.mark.parametrize(
    ("choose", "check", "text"),
    [
        (lambda s, c: None, VALID, "quiet, default in force: choose must return a Choice, got N"),
        (lambda s, c: Choice(None, "x"), VALID, "params must be a RuleParams, got None"),
        (broken(margin=-1.0), VALID, "params must be valid: margin must be greater than 0, got -1"),
        (lambda s, c: Choice(DEFAULT, " "), VALID, "reason must say why, got ' '"),
        (
            lambda s, c: Choice(DEFAULT, "x", {"load": float("nan")}),
            VALID,
            "score 'load' must be a finite number, got nan",
        ),
        (dividing, VALID, "no traffic, .*: choose must not raise, got ZeroDivisionError"),
        (counting(), SAME, "choose must be deterministic and keep no state; was"),
        (counting(), "test_it_may_be_asked_from_several_threads", "must be thread-safe"),
        (editing, "test_choosing_changes_nothing", "choose must not change signals"),
        (meddling, "test_choosing_changes_nothing", "choose must not change current"),
    ],
)
def test_the_contract_notices(choose: Choose, check: str, text: str) -> None:
    class Case(PolicyContract):
        def make_policy(self) -> Policy:
            return Faulty(choose)

    with pytest.raises(AssertionError, match=text):
        getattr(Case(), check)()


@pytest.mark.parametrize("name", ["", "two words", "n" * 65, "ümlaut", None])
def test_a_name_is_plain(name: str) -> None:
    class Case(PolicyContract):
        def make_policy(self) -> Policy:
            return Faulty(lambda signals, current: FINE, name)

    with pytest.raises(AssertionError, match="name must match"):
        Case().test_it_is_a_policy_with_a_plain_name()


def test_what_is_no_policy_is_said() -> None:
    class Case(PolicyContract):
        def make_policy(self) -> Policy:
            return object()  # type: ignore[return-value]

    with pytest.raises(AssertionError, match="a policy must have `name` and `choose`"):
        Case().test_it_is_a_policy_with_a_plain_name()
    with pytest.raises(NotImplementedError, match="make_policy must return the policy"):
        PolicyContract().test_every_choice_is_valid()
