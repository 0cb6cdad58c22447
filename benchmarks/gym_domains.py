"""The four domains in which a learned policy is weighed against the best fixed setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS
from sims.evaluation.evaluate import Episode, evaluate
from sims.evaluation.suite import Cell, Suite, mixed_domain
from sims.gym.domain import LoadDomain, capacity_per_s

WARY = {"margin": 0.5, "delta": 1.0}
ONE = np.ones(1, np.int32)


def pairs() -> tuple[RuleParams, ...]:
    """Settings for workers that hold few of six plans: two plans each, bold and wary."""
    chosen = ((3, 5), (2, 5), (4, 5), (1, 5), (0, 5), (2, 4), (1, 3))
    return (
        *(RuleParams(f"pair-{a}{b}", plans=(a, b)) for a, b in chosen),
        *(RuleParams(f"wary-pair-{a}{b}", plans=(a, b), **WARY) for a, b in chosen),
        RuleParams("wary-cheapest", plans=(5,), **WARY),
        RuleParams("wary-speed", beta=1.5, alpha=1.25, **WARY),
        RuleParams("wary", **WARY),
        DEFAULT,
    )


@dataclass(frozen=True)
class Domain:
    """A name, what is drawn, and the settings a policy may choose among."""

    name: str
    draws: LoadDomain
    presets: tuple[RuleParams, ...]

    def cells(self, suite: Suite, seeds: Sequence[int]) -> Mapping[Cell, list[Episode]]:
        """One episode per cell and seed: a service of this domain at that load of its capacity."""
        made: dict[Cell, list[Episode]] = {}
        for number, cell in enumerate(suite.cells()):
            episodes = []
            for seed in seeds:
                rng = np.random.default_rng([seed, number])
                service = self.draws.draw_service(rng)
                rate_per_s = cell.load * capacity_per_s(service, ONE)
                trace = suite.regimes[cell.regime](rate_per_s, int(rng.integers(2**31)))
                episodes.append((service, trace))
            made[cell] = episodes
        return made

    def led_by(self, best: RuleParams) -> Domain:
        """The same with the best fixed setting in front: action 0, where training starts."""
        others = tuple(preset for preset in self.presets if preset != best)
        return replace(self, presets=(best, *others))


def domains(suite: Suite) -> tuple[Domain, ...]:
    """Nominal, hidden drift without and with learnt correction, mixed."""
    steady = {
        "workers": (4, 4), "slo_ms": (36.0, 36.0), "slower": (1.0, 1.0), "unevenness": (0.0, 0.0),
        "switch_ms": (0.0, 0.0), "load_ms": (0.0, 0.0), "resident": (6, 6), "scatter": (0.0, 0.0),
    }  # fmt: skip
    mixed = mixed_domain(suite)
    calm = replace(mixed, **steady, spike_share=(0.0, 0.0), drift=(1.0, 1.0))  # type: ignore[arg-type]
    drift = replace(mixed, **steady, spike_share=(0.01, 0.01))  # type: ignore[arg-type]
    wary = RuleParams("wary-quality", margin=0.5, beta=0.7, alpha=0.5)
    menu = (*(p for p in PRESETS if p.name not in ("broad", "narrow")), wary)
    return (
        Domain("nominal", calm, menu),
        Domain("drift", drift, menu),
        Domain("drift, learnt", replace(drift, learning=(0.05, 0.05)), menu),
        Domain("mixed", mixed, pairs()),
    )


def best_fixed(domain: Domain, cells: Mapping[Cell, list[Episode]]) -> RuleParams:
    """The preset of the highest mean utility over all these episodes."""
    total = np.zeros(len(domain.presets))
    for episodes in cells.values():
        total += evaluate(episodes, domain.presets, domain.presets).utility.mean(axis=1)
    return domain.presets[int(total.argmax())]
