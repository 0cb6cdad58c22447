"""The rules there are for running ops as one, and what becomes of a program under some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from supernet.fusion.graph.op_graph import OpGraph
from supernet.fusion.graph.partition import Partition
from supernet.fusion.graph.regions import Region, Regions, singletons
from supernet.fusion.rules.layers import Layers, isomorphic
from supernet.fusion.rules.patterns import (
    Activation,
    Attention,
    Convolution,
    Normalisation,
    Pointwise,
    Projections,
    Residual,
)
from supernet.plans import COMPILED

__all__ = [
    "RULES",
    "FusionChoice",
    "FusionRule",
    "apply_fusion_rules",
    "is_compiled",
    "isomorphic",
    "rules_of",
]


class FusionRule(Protocol):
    """Finds ops that are worth running as one. ``source``: the paper or page it comes from."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    def matches(self, graph: OpGraph, partition: Partition) -> Iterator[frozenset[str]]:
        """Sets of ops to make one, best first; proposals, which may overlap or be illegal.

        ``partition`` is what earlier rules left. It is not changed here, but by the caller
        between two matches.
        """
        ...


_ALL: tuple[FusionRule, ...] = (
    Pointwise(),
    Normalisation(),
    Activation(),
    Projections(),
    Attention(),
    Residual(),
    Convolution(),
    Layers(),
)

RULES: Mapping[str, FusionRule] = MappingProxyType({rule.name: rule for rule in _ALL})


@dataclass(frozen=True, slots=True)
class FusionChoice:
    """Which rules to apply, in this order: what one rule has put together, the next ones keep.

    >>> FusionChoice(("qkv", "attention")).to_json()
    {'rules': ['qkv', 'attention']}
    """

    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.rules:
            if name not in RULES:
                raise ValueError(f"rules must be among {', '.join(RULES)}, got {name!r}")
            if self.rules.count(name) > 1:
                raise ValueError(f"rules must name each rule once, got {name!r} twice")

    def to_json(self) -> dict[str, Any]:
        return {"rules": list(self.rules)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> FusionChoice:
        """The choice that ``to_json`` described; a ``ValueError`` where this has no such rule."""
        rules = data.get("rules")
        if not isinstance(rules, list):
            raise ValueError(f"fusion choice must hold a list of rules, got {rules!r}")
        return FusionChoice(tuple(str(name) for name in rules))


def rules_of(fusion: str) -> FusionChoice:
    """The rules that a plan's ``fusion`` names.

    >>> rules_of("qkv+norm+compiled").rules
    ('qkv', 'norm')
    """
    return FusionChoice(tuple(name for name in fusion.split("+") if name != COMPILED))


def is_compiled(fusion: str) -> bool:
    """Whether what the rules leave to torch is compiled.

    >>> is_compiled("qkv+norm+compiled"), is_compiled("qkv")
    (True, False)
    """
    return COMPILED in fusion.split("+")


def apply_fusion_rules(graph: OpGraph, choice: FusionChoice) -> Regions:
    """The program's ops in regions: every legal proposal of every chosen rule, in turn.

    A proposal is taken whole or not at all: where it cuts through a region or could not be
    executed in one go, nothing changes. A region is named after the last rule that enlarged it.
    """
    partition = singletons(graph)
    units = {name: unit for unit in partition.regions() for name in unit}
    rule_of: dict[str, str] = {}
    for rule in (RULES[name] for name in choice.rules):
        for match in rule.matches(graph, partition):
            names = {name for matched in match for name in units[matched]}
            grows = any(names.difference(partition.region(name)) for name in names)
            if grows and partition.merge(names):
                rule_of.update(dict.fromkeys(names, rule.name))
    return Regions(
        graph,
        tuple(Region(rule_of.get(ops[0], "none"), ops) for ops in partition.regions()),
    )
