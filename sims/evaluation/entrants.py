"""Entrants to be put in charge of a simulated service, by name, and what each may be tuned over.

| name | what it is | tuned over |
|---|---|---|
| `rule` | the default setting of the rule that serves live | the presets |
| a preset (`policies.PRESETS`) | that setting | – |
| `slackfit`, `slackfit-drop` | SlackFit; with the hopeless dropped | buckets, batch cap |
| `drain-aware` | SlackFit that looks at the queue | margin, early drop |
| `clockwork`, `bentoml` | one plan; as installed, the most accurate | plan, batch cap |
| `clipper` | one plan; as installed, the most accurate | plan, step, back-off |
| `proteus` | demand gives each worker a plan | headroom, caution, how often |
| `threshold` | two settings and a hysteresis | both marks |
| `static` | one plan, batch cap and wait: `static_grid` | all of it |
| an entry point, an exported folder | see `policies.plugins` | – |

`name:key=value:key=value` is one setting of a discipline, which is then not tuned. `static` also
stands for the best of its grid in hindsight, on the very traces it is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from policies.baselines import ThresholdPolicy
from policies.params import RuleParams
from policies.plugins import load_policy, policy_names
from policies.presets import DEFAULT, PRESETS
from policies.rivals import BentoML, Clipper, Clockwork, DrainAware, Proteus, SlackFit
from sims.evaluation.evaluate import AnyPolicy
from sims.evaluation.static_sweep import static_grid
from sims.service import Service

__all__ = ["RIVALS", "Entrant", "described", "entrant", "entrant_names"]


@dataclass(frozen=True)
class Entrant:
    """What one name stands for.

    `default`: as a person would install it; None where nothing is but what was tuned. `grid`: what
    tuning chooses among. `hindsight`: whether the best of the grid on the very traces it is
    judged by is shown as well, which is a mark and no policy.
    """

    name: str
    default: AnyPolicy | None
    grid: tuple[AnyPolicy, ...] = ()
    hindsight: bool = False


def _all(make: Callable[..., AnyPolicy], **values: Sequence[Any]) -> tuple[AnyPolicy, ...]:
    return tuple(
        make(**dict(zip(values, point, strict=True))) for point in product(*values.values())
    )


def _slackfit(early_drop: bool) -> Callable[[str, Service], Entrant]:
    def made(name: str, service: Service) -> Entrant:
        default = SlackFit(early_drop=early_drop)
        grid = _all(
            SlackFit, buckets=(1, 2, 4, 8, 16, 32, 64), early_drop=(early_drop,), max_rows=(8, 16)
        )
        return Entrant(name, default, grid)

    return made


def _drain_aware(name: str, service: Service) -> Entrant:
    margins = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    return Entrant(name, DrainAware(), _all(DrainAware, margin=margins, early_drop=(True, False)))


def _one_plan(make: type[Clockwork] | type[BentoML]) -> Callable[[str, Service], Entrant]:
    def made(name: str, service: Service) -> Entrant:
        plans = range(service.plans)
        return Entrant(name, make(_best(service)), _all(make, plan=plans, max_rows=(4, 8, 16)))

    return made


def _clipper(name: str, service: Service) -> Entrant:
    plans = range(service.plans)
    grid = _all(Clipper, plan=plans, step=(0.5, 1.0, 2.0, 4.0), back_off=(0.5, 0.75, 0.9))
    return Entrant(name, Clipper(_best(service)), grid)


def _proteus(name: str, service: Service) -> Entrant:
    headroom, caution = (1.0, 1.05, 1.2, 1.5, 2.0, 3.0, 5.0), (1.0, 1.1, 1.25, 1.5)
    grid = _all(Proteus, headroom=headroom, caution=caution, every_s=(10.0, 1.0))
    return Entrant(name, Proteus(), grid)


def _threshold(name: str, service: Service) -> Entrant:
    def marked(queue: float, p99: float) -> ThresholdPolicy:
        return ThresholdPolicy(
            high_queue=queue, low_queue=queue / 4, high_p99=p99, low_p99=2 / 3 * p99
        )

    grid = _all(marked, queue=(4.0, 8.0, 16.0, 32.0), p99=(0.7, 0.9, 1.1, 1.5))
    return Entrant(name, ThresholdPolicy(), grid)


def _static(name: str, service: Service) -> Entrant:
    return Entrant(name, None, static_grid(service), hindsight=True)


def _best(service: Service) -> int:
    """The most accurate plan: what a person installs who tunes nothing."""
    return 0 if service.accuracy is None else int(service.accuracy.argmax())


_MADE: Mapping[str, Callable[[str, Service], Entrant]] = {
    "rule": lambda name, service: Entrant(name, DEFAULT, PRESETS),
    "slackfit": _slackfit(False),
    "slackfit-drop": _slackfit(True),
    "drain-aware": _drain_aware,
    "clockwork": _one_plan(Clockwork),
    "clipper": _clipper,
    "proteus": _proteus,
    "bentoml": _one_plan(BentoML),
    "threshold": _threshold,
    "static": _static,
}
RIVALS = tuple(_MADE)
"""The disciplines by name, the rule first."""

_SETTINGS: Mapping[str, type] = {
    "rule": RuleParams, "slackfit": SlackFit, "slackfit-drop": SlackFit,
    "drain-aware": DrainAware, "clockwork": Clockwork, "clipper": Clipper, "proteus": Proteus,
    "bentoml": BentoML,
}  # fmt: skip
"""Those that take `key=value`."""


def entrant_names() -> tuple[str, ...]:
    """Every name but those of folders.

    >>> entrant_names()[:3]
    ('rule', 'slackfit', 'slackfit-drop')
    """
    presets = (preset.name for preset in PRESETS)
    return tuple(dict.fromkeys((*RIVALS, *presets, *policy_names())))


def entrant(name: str, service: Service) -> Entrant:
    """What `name` stands for on this service.

    Raises ValueError for a name, a key or a value that is none; for entry points and folders see
    `policies.plugins.load_policy`.

    >>> from sims.evaluation.suite import six_tiers
    >>> entrant("clockwork", six_tiers()).default
    Clockwork(plan=0, max_rows=16)
    >>> entrant("slackfit:buckets=8", six_tiers()).default.buckets
    8
    """
    if name in _MADE:
        return _MADE[name](name, service)
    for preset in PRESETS:
        if preset.name == name:
            return Entrant(name, preset)
    if name in policy_names() or Path(name).is_dir():
        return Entrant(name, load_policy(name))
    family, *pairs = name.split(":")
    if family in _SETTINGS and pairs:
        return Entrant(name, _set(name, family, pairs))
    if family in _MADE or family in entrant_names():
        raise ValueError(f"policy {family} takes no settings, got {name!r}")
    raise ValueError(
        f"policy must be {', '.join(sorted(entrant_names()))} or an exported folder, got {name!r}"
    )


def _set(name: str, family: str, pairs: Sequence[str]) -> AnyPolicy:
    make = _SETTINGS[family]
    kinds = {f.name: str(f.type) for f in fields(make)}
    values: dict[str, Any] = {"early_drop": True} if family == "slackfit-drop" else {}
    if make is RuleParams:
        del kinds["plans"]
        values["name"] = name.replace(":", "-").replace("=", "-")
        del kinds["name"]
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in kinds:
            raise ValueError(f"{family} must be set by {', '.join(kinds)}, got {pair!r}")
        values[key] = _read(key, kinds[key], text)
    missing = [f.name for f in fields(make) if f.default is MISSING and f.name not in values]
    if missing:
        raise ValueError(f"{family} must be told its {missing[0]}, got {name!r}")
    made: AnyPolicy = make(**values)
    return made


def _read(key: str, kind: str, text: str) -> Any:
    try:
        if kind == "bool":
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return int(text) if kind == "int" else float(text)
    except (KeyError, ValueError):
        what = {"bool": "true or false", "int": "a whole number"}.get(kind, "a number")
        raise ValueError(f"{key} must be {what}, got {text!r}") from None


def described(policy: AnyPolicy) -> str:
    """The settings in words, for a table.

    >>> described(Clockwork(plan=2, max_rows=8))
    'plan 2, max rows 8'
    >>> described(RuleParams.static(1, 4, 2.0, delta=1.0))
    'plan 1, max rows 4, wait 2 ms, delta 1'
    """
    if isinstance(policy, RuleParams):
        if policy in PRESETS or len(policy.plans) != 1:
            return policy.name
        told = f"plan {policy.plans[0]}, max rows {policy.max_rows}, wait {policy.wait_ms:g} ms"
        return f"{told}, delta {policy.delta:g}"
    if isinstance(policy, ThresholdPolicy):
        return "queue {:g} per worker, p99 {:g} of the SLO".format(*policy.marks)
    kinds = getattr(policy, "__dataclass_fields__", {})
    if type(policy) not in _SETTINGS.values():
        return policy.name
    values = {key: getattr(policy, key) for key in kinds}
    return ", ".join(
        f"{key.replace('_', ' ')} {value:g}"
        for key, value in values.items()
        if not (isinstance(value, bool) or (key == "plan" and value < 0))
    ) + ("" if values.get("early_drop", True) else ", no early drop")
