"""The sub-networks that a search may choose among: genes, and what each may be."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from supernet.elastic.anatomy import Anatomy, Layer, Place
from supernet.elastic.subnet import AttentionKind, AttentionSpec, LayerSpec, SubnetSpec

__all__ = ["Choice", "Gene", "Space", "SpaceConfig", "Target"]

Choice: TypeAlias = int | str | bool


@dataclass(frozen=True, slots=True)
class SpaceConfig:
    """Which parts of a width are on offer, and what they are rounded to.

    Shares of heads are rounded to whole groups of keys and values, of channels to multiples of
    ``multiple`` (of ``fine_multiple`` where a width is below 16 of those): measured kernels like
    those, and a narrower layer of an odd width can take longer than the whole.
    `attention`: kinds on offer beside those that are always there, softmax and none. `window` is
    how far a query of the kind ``"window"`` looks, `sinks` the first keys that it sees besides.
    """

    heads: tuple[Fraction, ...] = (Fraction(1, 3), Fraction(2, 3), Fraction(1))
    ffn: tuple[Fraction, ...] = tuple(Fraction(part, 4) for part in range(5))
    channels: tuple[Fraction, ...] = tuple(Fraction(part, 4) for part in range(1, 5))
    multiple: int = 16
    fine_multiple: int = 8
    attention: tuple[AttentionKind, ...] = ()
    window: int = 64
    sinks: int = 4

    def __post_init__(self) -> None:
        for name in ("heads", "ffn", "channels"):
            shares = getattr(self, name)
            if not shares or any(not 0 <= share <= 1 for share in shares) or 1 not in shares:
                raise ValueError(f"{name} must be shares from 0 to 1, 1 among them, got {shares}")
        if not 1 <= self.fine_multiple <= self.multiple:
            raise ValueError(f"fine_multiple must be from 1 to multiple, got {self.fine_multiple}")
        if not set(self.attention) <= {"linear", "window"}:
            raise ValueError(f"attention must be of linear and window, got {self.attention}")
        if not 0 <= self.sinks <= self.window or self.window < 1:
            raise ValueError(
                f"sinks must be from 0 to window, got {self.sinks} and a window of {self.window}"
            )

    def to_json(self) -> dict[str, Any]:
        shares = {n: [str(s) for s in getattr(self, n)] for n in ("heads", "ffn", "channels")}
        plain = {n: getattr(self, n) for n in ("multiple", "fine_multiple", "window", "sinks")}
        return {**shares, **plain, "attention": list(self.attention)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SpaceConfig:
        shares = {n: tuple(map(Fraction, data[n])) for n in ("heads", "ffn", "channels")}
        return SpaceConfig(
            **shares,
            multiple=int(data["multiple"]),
            fine_multiple=int(data["fine_multiple"]),
            window=int(data["window"]),
            sinks=int(data["sinks"]),
            attention=tuple(data["attention"]),
        )


@dataclass(frozen=True, slots=True)
class Gene:
    """One decision. `name` says of what: ``"encoder.layer.0.attention.heads"``. The last of its
    choices is the original's."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a gene's choice goes in a spec: which layer, which of its fields, which entry of it."""

    layer: int
    field: Literal["skipped", "kind", "heads", "width"]
    index: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """All sub-networks that can be told apart by the genes' choices. `full` is the original.
    `targets`: for each gene where its choice goes."""

    genes: tuple[Gene, ...]
    full: SubnetSpec
    config: SpaceConfig
    targets: tuple[Target, ...] = field(repr=False)
    _layers: tuple[Layer, ...] = field(repr=False)

    @staticmethod
    def of(
        anatomy: Anatomy, config: SpaceConfig | None = None, kinds: Collection[str] = ()
    ) -> Space:
        """`kinds`: the names of the places whose attention may be of the kinds in `config`."""
        config = config or SpaceConfig()
        genes: list[tuple[Gene, Target]] = []
        for number, layer in enumerate(anatomy.layers):
            genes.extend(_genes(layer, number, config, kinds))
        found = [pair for pair in genes if len(pair[0].choices) > 1]
        return Space(
            tuple(gene for gene, _ in found),
            SubnetSpec(tuple(map(full_layer, anatomy.layers))),
            config,
            tuple(place for _, place in found),
            anatomy.layers,
        )

    @property
    def size(self) -> int:
        """How many combinations of choices there are; fewer sub-networks differ."""
        return math.prod(len(gene.choices) for gene in self.genes)

    def spec(self, choices: Mapping[str, Choice]) -> SubnetSpec:
        """The sub-network with these choices, by gene; what is not named is the original's."""
        known = {gene.name: gene for gene in self.genes}
        for name, choice in choices.items():
            if name not in known:
                raise ValueError(f"choices must be of genes of this space, got {name!r}")
            if choice not in known[name].choices or type(choice) is not type(
                known[name].choices[0]
            ):
                raise ValueError(
                    f"the choice of {name!r} must be one of {known[name].choices}, got {choice!r}"
                )
        layers = list(self.full.layers)
        for gene, place in zip(self.genes, self.targets, strict=True):
            if gene.name in choices:
                layers[place.layer] = _with(layers[place.layer], place, choices[gene.name])
        return SubnetSpec(tuple(layers)).canonical()

    def specs(self) -> Iterator[SubnetSpec]:
        """Every sub-network of the space, each once."""
        seen = set()
        for combination in itertools.product(*(gene.choices for gene in self.genes)):
            names = (gene.name for gene in self.genes)
            spec = self.spec(dict(zip(names, combination, strict=True)))
            if spec not in seen:
                seen.add(spec)
                yield spec

    def check(self, spec: SubnetSpec) -> SubnetSpec:
        """The canonical form of a spec for this model; a `ValueError` says what does not fit.

        Widths need not be among the choices.
        """
        names = [layer.name for layer in self.full.layers]
        if [layer.name for layer in spec.layers] != names:
            raise ValueError(f"the layers of a spec must be {names}, in this order")
        for own, layer in zip(spec.layers, self._layers, strict=True):
            _check(own, layer)
        return spec.canonical()


def _check(own: LayerSpec, layer: Layer) -> None:
    heads = [place for place in layer.places if place.kind == "heads"]
    widths = [place for place in layer.places if place.kind != "heads"]
    if len(own.attention) != len(heads) or len(own.widths) != len(widths):
        raise ValueError(
            f"layer {own.name!r} must have {len(heads)} attentions and {len(widths)} widths, got "
            f"{len(own.attention)} and {len(own.widths)}"
        )
    if own.skipped:
        if layer.stream is None:
            raise ValueError(f"layer {own.name!r} must not be skipped: {layer.why_not}")
        return
    for attention, place in zip(own.attention, heads, strict=True):
        least = 0 if attention.kind == "none" else place.least * place.group
        most = place.size * place.group
        if not least <= attention.heads <= most or attention.heads % place.group:
            raise ValueError(
                f"heads of {own.name!r} must be from {least} to {most} and whole groups of "
                f"{place.group}, got {attention.heads}"
            )
    for width, place in zip(own.widths, widths, strict=True):
        if not place.least <= width <= place.size:
            raise ValueError(
                f"widths of {own.name!r} must be from {place.least} to {place.size}, got {width}"
            )


def full_layer(layer: Layer) -> LayerSpec:
    """The layer with nothing left out."""
    return LayerSpec(
        layer.name,
        attention=tuple(
            AttentionSpec("softmax", p.size * p.group) for p in layer.places if p.kind == "heads"
        ),
        widths=tuple(place.size for place in layer.places if place.kind != "heads"),
    )


def _genes(
    layer: Layer, number: int, config: SpaceConfig, offered: Collection[str]
) -> Iterator[tuple[Gene, Target]]:
    if layer.stream is not None:
        yield Gene(f"{layer.name}.skipped", (True, False)), Target(number, "skipped")
    heads = [place for place in layer.places if place.kind == "heads"]
    for index, place in enumerate(heads):
        others = config.attention if place.name in offered else ()
        none = ("none",) if place.least == 0 else ()
        kinds: tuple[Choice, ...] = (*none, *others, "softmax")
        yield Gene(f"{place.name}.kind", kinds), Target(number, "kind", index)
        counts = _rounded(place.size, config.heads, 1, place.group)
        yield Gene(f"{place.name}.heads", counts), Target(number, "heads", index)
    widths = [place for place in layer.places if place.kind != "heads"]
    for index, place in enumerate(widths):
        yield Gene(f"{place.name}.width", _widths(place, config)), Target(number, "width", index)


def _widths(place: Place, config: SpaceConfig) -> tuple[Choice, ...]:
    shares = config.ffn if place.kind == "ffn" else config.channels
    wide = place.size >= 16 * config.multiple
    counts = _rounded(place.size, shares, config.multiple if wide else config.fine_multiple, 1)
    return tuple(count for count in counts if int(count) >= place.least)


def _rounded(
    size: int, shares: Sequence[Fraction], multiple: int, group: int
) -> tuple[Choice, ...]:
    """So many units, each once, ascending; at least one multiple unless the share is 0."""
    counts = set()
    for share in shares:
        count = round(size * share / multiple) * multiple
        counts.add(size if share == 1 else 0 if share == 0 else min(size, max(count, multiple)))
    return tuple(count * group for count in sorted(counts))


def _with(layer: LayerSpec, place: Target, choice: Choice) -> LayerSpec:
    if place.field == "skipped":
        return dataclasses.replace(layer, skipped=bool(choice))
    if place.field == "width":
        widths = list(layer.widths)
        widths[place.index] = int(choice)
        return dataclasses.replace(layer, widths=tuple(widths))
    attention = list(layer.attention)
    old = attention[place.index]
    if place.field == "heads":
        attention[place.index] = dataclasses.replace(old, heads=int(choice))
    else:
        attention[place.index] = AttentionSpec(str(choice), old.heads)  # type: ignore[arg-type]
    return dataclasses.replace(layer, attention=tuple(attention))
