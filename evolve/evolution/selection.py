"""Which of the trained sub-networks to hold as tiers: those that pass, as many as are worth it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, fx

from evolve.evolution.judging import Bench, Verdict
from evolve.evolution.latency import Latency
from evolve.evolution.memory import Held
from evolve.evolution.settings import WORTHWHILE, GenerationConfig
from evolve.evolution.worth import Offer, Worth
from policies.strategic import choose_tiers
from supernet.backends.eager import EagerPlan
from supernet.distillation.batches import Batch
from supernet.distillation.pipeline import Improved
from supernet.elastic.statistics import recalibrate
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.elastic.trained import name_of, write_weights

__all__ = ["Proposal", "Selection", "selected", "trained"]

_NORM_BATCHES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A tier to hold: `quality` is its mean agreement on inputs held out, `lower` the end of its
    interval, `speedup` predicted."""

    name: str
    spec: SubnetSpec
    weights: Mapping[str, Tensor]
    quality: float
    lower: float
    speedup: float

    @property
    def reason(self) -> str:
        return (
            f"agrees {self.quality:.4f} with the original on inputs held out ({self.lower:.4f} or "
            f"more), {self.speedup:.2f} times as fast by prediction"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The tiers to hold, why these, and what they are worth where a twin could say."""

    tiers: tuple[Proposal, ...]
    reason: str
    utility: Mapping[str, float] = field(default_factory=dict)


def trained(improved: Improved, batches: Sequence[Batch]) -> tuple[Held, ...]:
    """The tiers that a pipeline trained, each with the weights that it takes and a name; of one
    with batch norms also that with its norms set by what now comes in."""
    found = []
    for tier in improved.tiers:
        module = tier.net.module(tier.spec)
        made = [_weights(module)]
        if _recalibrated(module, batches):
            made.append(_weights(module))
        found += [Held(_name(tier.spec, weights), tier.spec, weights) for weights in made]
    return tuple(found)


def _recalibrated(module: fx.GraphModule, batches: Sequence[Batch]) -> bool:
    """Whether it has batch norms, which are then those of what they now see."""
    try:
        return recalibrate(module, [batch.inputs for batch in batches[:_NORM_BATCHES]]) > 0
    except ValueError:  # one value per channel: they stay as they were
        return False


def _weights(module: fx.GraphModule) -> dict[str, Tensor]:
    """By the model's own names, of the sizes that the sub-network has them in."""
    found: dict[str, Tensor] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        value: Any = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, Tensor):
            found[str(node.target)] = value.detach().clone()
    return found


def _name(spec: SubnetSpec, weights: Mapping[str, Tensor]) -> str:
    with TemporaryDirectory(prefix="evolve-tier-") as folder:
        path = Path(folder) / "weights.safetensors"
        write_weights(weights, path)
        return name_of(spec, path)


def selected(
    net: Supernet,
    bench: Bench,
    held: Sequence[Held],
    fresh: Sequence[Held],
    latency: Latency,
    config: GenerationConfig,
    worth: Worth | None,
) -> Selection:
    """At most `most_tiers` of those held before and fresh ones that pass, on the same rows."""
    judged = [(one, bench.judge(EagerRun(net, one))) for one in (*held, *fresh)]
    proposals = [_proposal(one, verdict, latency) for one, verdict in _best_of_each(judged)]
    passed = [p for p in proposals if p.lower >= config.min_quality and p.speedup >= WORTHWHILE]
    if not passed:
        return Selection((), _why_none(proposals, config), _utility(worth, ()))
    if worth is None:
        chosen, reason = _at_speeds(passed, config)
    else:
        before = {one.name for one in held}
        chosen, reason = _most_useful(passed, before, config, worth)
    return Selection(chosen, reason, _utility(worth, chosen))


def _best_of_each(judged: Sequence[tuple[Held, Verdict]]) -> list[tuple[Held, Verdict]]:
    """One for each sub-network: the first, unless a later one is better beyond doubt."""
    best: dict[SubnetSpec, tuple[Held, Verdict]] = {}
    for one, verdict in judged:
        known = best.get(one.spec)
        if known is None or verdict.is_better_than(known[1]):
            best[one.spec] = one, verdict
    return list(best.values())


def _proposal(one: Held, verdict: Verdict, latency: Latency) -> Proposal:
    found = verdict.quality
    speedup = latency.speedup(one.spec)
    return Proposal(one.name, one.spec, one.weights, found.value, found.lower, speedup)


def _why_none(proposals: Sequence[Proposal], config: GenerationConfig) -> str:
    if not proposals:
        return "no tier: no sub-network was worth training"
    best = max(proposals, key=lambda p: p.lower)
    return (
        f"no tier: none of {len(proposals)} agrees {config.min_quality:g} or more beyond doubt and "
        f"is {WORTHWHILE:g} times as fast; the best {best.reason}"
    )


def _at_speeds(
    passed: Sequence[Proposal], config: GenerationConfig
) -> tuple[tuple[Proposal, ...], str]:
    """For each speed asked for, the fastest first, the best that is as fast."""
    chosen: dict[str, Proposal] = {}
    for speedup in sorted(config.speedups, reverse=True):
        fast = [p for p in passed if p.speedup >= speedup]
        if fast and len(chosen) < config.most_tiers:
            best = max(fast, key=lambda p: p.quality)
            chosen[best.name] = best
    asked = ", ".join(f"{speedup:g}" for speedup in config.speedups)
    if not chosen:
        fastest = max(passed, key=lambda p: p.speedup)
        return (
            (),
            f"no tier: none that passes is {asked} times as fast; the fastest {fastest.reason}",
        )
    return tuple(chosen.values()), (
        f"{len(chosen)} of {len(passed)} that pass, the best that are {asked} times as fast"
    )


def _most_useful(
    passed: Sequence[Proposal], before: Collection[str], config: GenerationConfig, worth: Worth
) -> tuple[tuple[Proposal, ...], str]:
    """The set that the twin values most; where nothing adds to it, those held before."""
    offers = {_offer(p): p for p in passed}
    found = choose_tiers(list(offers), config.most_tiers, worth)
    chosen = tuple(offers[offer] for offer in found.tiers)
    if chosen:
        return chosen, found.reason
    stay = tuple(p for p in passed if p.name in before)[: config.most_tiers]
    told = "those held before stay" if stay else "no tier"
    return stay, f"{told}: the original carries the traffic of late, and half as much again"


def _offer(proposal: Proposal) -> Offer:
    return Offer(proposal.name, min(1.0, proposal.quality), proposal.speedup)


def _utility(worth: Worth | None, chosen: Sequence[Proposal]) -> dict[str, float]:
    if worth is None:
        return {}
    return {"without": worth(()), "with": worth([_offer(p) for p in chosen])}


class EagerRun:
    """A tier as a function of flat tensors: its weights put into the model's own program, as they
    are when it is adopted."""

    def __init__(self, net: Supernet, tier: Held) -> None:
        self._plan = EagerPlan(net.program(tier.spec, tier.weights))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        return list(self._plan.run([leaf.clone() for leaf in inputs]))
