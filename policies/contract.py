"""The contract that every policy must keep to, as tests that a new one inherits.

In the style of Optuna's reusable sampler tests: subclass `PolicyContract` in a test module, give
`make_policy`, and pytest runs the rest. Nothing here needs pytest itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

from policies.base import Choice, Policy
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS
from profiler.signals import Signals

__all__ = ["BOUNDS", "NAME", "PolicyContract", "extremes"]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a policy's name must match as a whole."""

_THREADS = 8
_ROUNDS = 5

QUIET = Signals(
    at_s=10.0, slo_ms=50.0, workers=2, arrival_per_s=40.0, arrivals_100ms=(4,) * 10,
    arrivals_10ms=(0, 1) * 5, burstiness=1.0, queue=0, head_slack_ms=50.0, busy_share=0.5,
    served_per_s=40.0, met_ratio=1.0, refused_ratio=0.0, p50_ms=8.0, p99_ms=20.0,
    cost_ratio_mean=1.0, cost_ratio_max=1.2, mean_length=20.0, padded_ratio=0.1, ended=40,
    batches=30, worth_ratio=0.9,
)  # fmt: skip

BOUNDS: dict[str, tuple[float, float]] = {
    "at_s": (0.0, 1e9),
    "slo_ms": (1e-3, 1e9),
    "workers": (1, 10**6),
    "arrival_per_s": (0.0, 1e9),
    "arrivals_100ms": (0, 10**8),  # of each slot
    "arrivals_10ms": (0, 10**7),
    "burstiness": (0.0, 1e9),
    "queue": (0, 10**9),
    "head_slack_ms": (-1e9, 1e9),
    "busy_share": (0.0, 1.0),
    "served_per_s": (0.0, 1e9),
    "met_ratio": (0.0, 1.0),
    "refused_ratio": (0.0, 1.0),
    "p50_ms": (0.0, 1e9),
    "p99_ms": (0.0, 1e9),
    "cost_ratio_mean": (1e-9, 1e9),
    "cost_ratio_max": (1e-9, 1e9),
    "mean_length": (0.0, 1e9),
    "padded_ratio": (0.0, 1.0),
    "ended": (0, 10**9),
    "batches": (0, 10**9),
    "worth_ratio": (0.0, 1.0),
    "correction": (1e-9, 1e9),
    "switch_ms": (0.0, 1e9),
    "unevenness": (0.0, 1e3),
    "load_ms": (0.0, 1e9),
    "held_ratio": (0.0, 1.0),
    "balance": (0.0, 1e6),
    "memory_share": (0.0, 1.0),
    "moved_mib": (0.0, 1e9),
    "fused": (0.0, 1.0),
}
"""The least and the most of every field of `Signals` that a policy is shown."""


def extremes() -> Iterator[tuple[str, Signals]]:
    """Signals by name: usual ones, no traffic, overload, each bound alone and all together.

    >>> dict(extremes())["queue at its most"].queue
    1000000000
    """
    yield "quiet", QUIET
    yield "no traffic", at_bounds(QUIET, 0, *(set(BOUNDS) - {"at_s", "slo_ms", "workers"}))
    yield (
        "overload",
        replace(QUIET, queue=5000, head_slack_ms=-900.0, p99_ms=9e5, arrival_per_s=1e6,
                arrivals_100ms=(100_000,) * 10, met_ratio=0.0, refused_ratio=0.9, busy_share=1.0),
    )  # fmt: skip
    for which, side in enumerate(("least", "most")):
        yield f"everything at its {side}", at_bounds(QUIET, which, *BOUNDS)
        for field in BOUNDS:
            yield f"{field} at its {side}", at_bounds(QUIET, which, field)


def at_bounds(signals: Signals, which: int, *fields: str) -> Signals:
    """The signals with these fields at their least (0) or most (1)."""
    changed: dict[str, object] = {}
    for field in fields:
        value = BOUNDS[field][which]
        changed[field] = (value,) * 10 if field.startswith("arrivals_") else value
    return replace(signals, **changed)  # type: ignore[arg-type]


class PolicyContract:
    """Subclass as `Test...` and give `make_policy`.

    A policy has a plain name; its `choose` never raises on valid signals, gives a valid choice
    with a reason and finite scores, changes nothing, keeps no state, and may be called from
    several threads. An AssertionError says which part does not hold, and for which signals.

    >>> from policies import RulePolicy
    >>> class TestRule(PolicyContract):
    ...     def make_policy(self):
    ...         return RulePolicy()
    >>> TestRule().test_every_choice_is_valid()
    """

    def make_policy(self) -> Policy:
        """A new policy; every call gives one that decides alike."""
        raise NotImplementedError("make_policy must return the policy to be tested")

    def currents(self) -> Iterator[Choice]:
        """What may be in force when the policy is asked: presets, and what it never heard of."""
        yield Choice(DEFAULT, "start")
        yield Choice(PRESETS[-1], "the last preset")
        yield Choice(RuleParams("contract-unknown", max_rows=1), "by another policy", {"x": 1.0})

    def test_it_is_a_policy_with_a_plain_name(self) -> None:
        policy = self.make_policy()
        _require(isinstance(policy, Policy), "a policy must have `name` and `choose`", policy)
        named = isinstance(policy.name, str) and NAME.fullmatch(policy.name)
        _require(bool(named), f"name must match {NAME.pattern}", policy.name)

    def test_every_choice_is_valid(self) -> None:
        policy = self.make_policy()
        for case, signals, current in self._cases():
            choice = _ask(policy, case, signals, current)
            _require(isinstance(choice, Choice), f"{case}: choose must return a Choice", choice)
            params = choice.params
            _require(isinstance(params, RuleParams), f"{case}: params must be a RuleParams", params)
            try:
                replace(params)  # its own rules once more
            except ValueError as error:
                raise AssertionError(f"{case}: params must be valid: {error}") from error
            told = isinstance(choice.reason, str) and choice.reason.strip()
            _require(bool(told), f"{case}: reason must say why", choice.reason)
            for name, value in choice.scores.items():
                number = isinstance(value, (int, float)) and math.isfinite(value)
                _require(number, f"{case}: score {name!r} must be a finite number", value)

    def test_the_same_arguments_give_the_same_choice(self) -> None:
        """Again, after all the others, and from another instance: a journal can be replayed."""
        policy, other = self.make_policy(), self.make_policy()
        cases = list(self._cases())
        first = [_ask(policy, *case) for case in cases]
        for again in (policy, other):
            for case, before in reversed(list(zip(cases, first, strict=True))):
                text = f"{case[0]}: choose must be deterministic and keep no state; was {before}"
                now = _ask(again, *case)
                _require(now == before, text, now)

    def test_choosing_changes_nothing(self) -> None:
        policy = self.make_policy()
        for case, signals, current in self._cases():
            seen, held = deepcopy(signals), deepcopy(current)
            _ask(policy, case, signals, current)
            _require(signals == seen, f"{case}: choose must not change signals", signals)
            _require(current == held, f"{case}: choose must not change current", current)

    def test_it_may_be_asked_from_several_threads(self) -> None:
        policy = self.make_policy()
        cases = list(self._cases())
        alone = [_ask(policy, *case) for case in cases]
        with ThreadPoolExecutor(_THREADS) as pool:
            rounds = [pool.map(lambda case: _ask(policy, *case), cases) for _ in range(_ROUNDS)]
            for told in rounds:
                for case, before, now in zip(cases, alone, told, strict=True):
                    _require(now == before, f"{case[0]}: choose must be thread-safe", now)

    def _cases(self) -> Iterator[tuple[str, Signals, Choice]]:
        for name, signals in extremes():
            for current in self.currents():
                yield f"{name}, {current.params.name} in force", signals, current


def _ask(policy: Policy, case: str, signals: Signals, current: Choice) -> Choice:
    try:
        return policy.choose(signals, current)
    except Exception as error:
        raise AssertionError(f"{case}: choose must not raise, got {error!r}") from error


def _require(holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise AssertionError(f"{rule}, got {got!r}")
