"""The shapes and dtypes a captured model takes and gives, as plain values.

Nothing here imports torch: a worker that runs an ONNX Runtime or OpenVINO plan
reads its signature from JSON and never pays for the framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["Dim", "Signature", "TensorSpec"]

Dim: TypeAlias = int | Literal["rows", "length", "any"]
"""Size of one dimension: fixed, the number of rows, the padded length, or ``"any"``.

``"any"`` occurs in outputs only: the size follows the length in a way that cannot be
cropped back (a strided convolution, say), which is why padding is illegal there.
"""

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output tensor. ``dtype`` is torch's and numpy's name, e.g. ``"float32"``.

    >>> TensorSpec("ids", "int64", ("rows", "length")).shape(rows=2, length=8)
    (2, 8)
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def shape(self, rows: int, length: int) -> tuple[int, ...]:
        """The concrete shape for so many rows of this length."""
        sizes = {"rows": rows, "length": length}
        shape = []
        for dim in self.dims:
            if dim == "any":
                raise ValueError(f"dims of {self.name!r} must be known ahead, got {self.dims}")
            shape.append(dim if isinstance(dim, int) else sizes[dim])
        return tuple(shape)

    def axis(self, dim: Literal["rows", "length"]) -> int | None:
        """Which dimension that is, None where there is none.

        >>> TensorSpec("states", "float32", (2, "rows", 8)).axis("rows")
        1
        """
        return self.dims.index(dim) if dim in self.dims else None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "dims": list(self.dims)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TensorSpec:
        return TensorSpec(
            str(data["name"]), str(data["dtype"]), tuple(_dim(d) for d in data["dims"])
        )


def _dim(value: Any) -> Dim:
    if value in ("rows", "length", "any"):
        return value  # type: ignore[no-any-return]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"dim must be a size, 'rows', 'length' or 'any', got {value!r}")


@dataclass(frozen=True, slots=True)
class Signature:
    """What flat tensors go in and come out, and which liberties batching may take.

    ``batchable``: requests may be stacked along ``"rows"``; each gives the same answer as
    alone. An output without ``"rows"`` is then one that never depends on the input: every
    request gets it whole.
    ``paddable``: every ``"length"`` may be zero-padded at its end and the outputs cropped.
    Where it is False, only requests of equal length may share a batch, at exactly that length.
    ``min_length``: the shortest length the plans were checked for (1 without a length axis).
    ``device``: where the tensors live, as torch spells it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    paddable: bool
    min_length: int = 1
    device: str = "cpu"

    @property
    def has_rows(self) -> bool:
        """Whether any input has a rows dimension."""
        return any("rows" in spec.dims for spec in self.inputs)

    @property
    def has_length(self) -> bool:
        """Whether any input has a length dimension."""
        return any("length" in spec.dims for spec in self.inputs)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record with a schema version."""
        return {
            "v": _SCHEMA,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "batchable": self.batchable,
            "paddable": self.paddable,
            "min_length": self.min_length,
            "device": self.device,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        """The signature ``to_json`` described; another schema is a ``ValueError``."""
        if data.get("v") != _SCHEMA:
            raise ValueError(f"signature schema must be {_SCHEMA}, got {data.get('v')!r}")
        return Signature(
            inputs=_specs(data["inputs"]),
            outputs=_specs(data["outputs"]),
            batchable=bool(data["batchable"]),
            paddable=bool(data["paddable"]),
            min_length=int(data["min_length"]),
            device=str(data["device"]),
        )


def _specs(data: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec.from_json(item) for item in data)
