"""A sub-network: what each layer of a supernet keeps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["AttentionKind", "AttentionSpec", "LayerSpec", "SubnetSpec"]

AttentionKind: TypeAlias = Literal["softmax", "linear", "window", "none"]
"""``"linear"``: softmax feature maps (Hedgehog); ``"window"``: softmax over near keys and the first
few; ``"none"``: the attention's place is taken by its output bias."""

_KINDS = get_args(AttentionKind)
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Of one attention: how it is computed, and how many query heads are kept, the first ones."""

    kind: AttentionKind
    heads: int

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {self.kind!r}")
        _check_count("heads", self.heads)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Of one layer: whether it is left out, its attentions, and the channels that it keeps.

    `widths`: one per inner width that is no attention's, in program order: the hidden channels of
    a feed-forward block, or those between two convolutions.
    """

    name: str
    skipped: bool = False
    attention: tuple[AttentionSpec, ...] = ()
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for width in self.widths:
            _check_count("widths", width)

    def canonical(self) -> LayerSpec:
        """Equal for all that compute the same: no attention is no heads, a layer left out is 0."""
        attention = tuple(
            AttentionSpec("none", 0) if self.skipped or a.kind == "none" or not a.heads else a
            for a in self.attention
        )
        widths = tuple(0 if self.skipped else width for width in self.widths)
        return dataclasses.replace(self, attention=attention, widths=widths)


@dataclass(frozen=True, slots=True)
class SubnetSpec:
    """What every layer of a supernet keeps: hashable, and the same after a way through JSON.

    >>> spec = SubnetSpec((LayerSpec("layer.0", widths=(64,)), LayerSpec("layer.1", skipped=True)))
    >>> SubnetSpec.from_json(spec.to_json()) == spec
    True
    >>> spec.key == SubnetSpec.from_json(spec.to_json()).key
    True
    """

    layers: tuple[LayerSpec, ...]

    @property
    def key(self) -> str:
        """One line that names it, the same in every process."""
        return json.dumps(self.canonical().to_json(), sort_keys=True, separators=(",", ":"))

    def layer(self, name: str) -> LayerSpec:
        """What the layer of that name keeps; a `KeyError` where there is none."""
        found = next((layer for layer in self.layers if layer.name == name), None)
        if found is None:
            raise KeyError(f"name must be one of a layer of the supernet, got {name!r}")
        return found

    def replace(self, name: str, **changes: Any) -> SubnetSpec:
        """The same but for these fields of one layer."""
        changed = dataclasses.replace(self.layer(name), **changes)
        return SubnetSpec(tuple(changed if one.name == name else one for one in self.layers))

    def canonical(self) -> SubnetSpec:
        """The form in which equal sub-networks are equal."""
        return SubnetSpec(tuple(layer.canonical() for layer in self.layers))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record with a schema version."""
        layers = [
            {
                "name": layer.name,
                "skipped": layer.skipped,
                "attention": [[a.kind, a.heads] for a in layer.attention],
                "widths": list(layer.widths),
            }
            for layer in self.layers
        ]
        return {"v": _SCHEMA, "layers": layers}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SubnetSpec:
        """The spec that ``to_json`` described; another schema is a ``ValueError``."""
        if data.get("v") != _SCHEMA:
            raise ValueError(f"the schema of a subnet must be {_SCHEMA}, got {data.get('v')!r}")
        return SubnetSpec(
            tuple(
                LayerSpec(
                    str(layer["name"]),
                    bool(layer["skipped"]),
                    tuple(AttentionSpec(kind, heads) for kind, heads in layer["attention"]),
                    tuple(layer["widths"]),
                )
                for layer in data["layers"]
            )
        )


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be whole numbers of at least 0, got {value!r}")
