"""Take nested arguments and results apart into tensors, and put them together again.

Understands lists, tuples, named tuples, dicts, dataclasses and whatever is registered with
torch's pytree (transformers' ``ModelOutput`` for one). Everything that is not a tensor is a
constant and belongs to the structure itself.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch.utils import _pytree as pytree  # the one registry third-party outputs are listed in

from supernet.errors import OutsideCapture, Uncapturable

__all__ = ["TENSOR", "Structure", "detached", "flatten"]

_Kind: TypeAlias = Literal["tensor", "constant", "sequence", "named", "mapping", "fields", "node"]
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, slice, range, enum.Enum)
_TORCH_CONSTANTS = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a nested value, with the tensors left out.

    ``detail`` is the constant, the keys, the field names or pytree's own record, by kind.
    """

    kind: _Kind
    cls: type[Any]
    detail: Any = None
    children: tuple[Structure, ...] = ()

    def rebuild(self, leaves: Sequence[torch.Tensor]) -> Any:
        """The nested value with these tensors in it, in the order ``flatten`` gave them."""
        rest = iter(leaves)
        value = self._build(rest)
        if next(rest, None) is not None:
            raise ValueError(f"leaves must number {self.size}, got {len(leaves)}")
        return value

    @property
    def size(self) -> int:
        """How many tensors it holds."""
        return 1 if self.kind == "tensor" else sum(child.size for child in self.children)

    def constants(self) -> Iterator[Any]:
        """Every constant in it, depth first."""
        if self.kind == "constant":
            yield self.detail
        for child in self.children:
            yield from child.constants()

    def _build(self, rest: Iterator[torch.Tensor]) -> Any:
        if self.kind == "tensor":
            return next(rest)
        if self.kind == "constant":
            return self.detail
        parts = [child._build(rest) for child in self.children]
        if self.kind == "sequence":
            return self.cls(parts)
        if self.kind == "named":
            return self.cls(*parts)
        if self.kind == "mapping":
            return dict(zip(self.detail, parts, strict=True))
        if self.kind == "fields":
            return self.cls(**dict(zip(self.detail, parts, strict=True)))
        return pytree.SUPPORTED_NODES[self.cls].unflatten_fn(parts, self.detail)

    def match(self, value: Any, leaves: list[torch.Tensor], where: str) -> None:
        """Append ``value``'s tensors to ``leaves``; ``OutsideCapture`` if it is built otherwise."""
        if self.kind == "tensor":
            if type(value) not in _PLAIN:
                raise OutsideCapture(f"{where} must be a torch.Tensor, got {type(value).__name__}")
            leaves.append(value)
            return
        if type(value) is not self.cls:
            raise OutsideCapture(
                f"{where} must be of type {self.cls.__name__}, got {type(value).__name__}"
            )
        if self.kind == "constant":
            if not _same(value, self.detail):
                raise OutsideCapture(f"{where} must be {self.detail!r}, got {value!r}")
            return
        parts, detail = _parts(value, self.kind)
        if len(parts) != len(self.children) or detail != self.detail:
            raise OutsideCapture(f"{where} must have the parts of the example")
        for index, (part, child) in enumerate(zip(parts, self.children, strict=True)):
            child.match(part, leaves, f"{where}[{_label(detail, index)!r}]")


TENSOR = Structure("tensor", torch.Tensor)


def flatten(value: Any, where: str = "value") -> tuple[list[torch.Tensor], Structure]:
    """The tensors in ``value``, depth first, and the structure that held them.

    ``Uncapturable`` names the first part that is neither a tensor, a known container nor a
    plain constant.
    """
    leaves: list[torch.Tensor] = []
    return leaves, _walk(value, leaves, where, 0)


def detached(value: Any) -> Any:
    """The same without gradients; the very same where it cannot be taken apart."""
    try:
        leaves, structure = flatten(value)
    except Uncapturable:
        return value
    return structure.rebuild([leaf.detach() for leaf in leaves])


def _walk(value: Any, leaves: list[torch.Tensor], where: str, depth: int) -> Structure:
    if depth > 32:
        raise Uncapturable(f"{where} is nested more than 32 levels deep")
    if isinstance(value, torch.Tensor):
        if type(value) not in _PLAIN and not _fake(value):
            raise Uncapturable(f"{where} is a {type(value).__name__}, not a plain tensor")
        if value.layout is not torch.strided:
            raise Uncapturable(f"{where} is a tensor of layout {value.layout}, not strided")
        leaves.append(value)
        return TENSOR
    kind = _kind(value)
    if kind is None:
        name = type(value).__name__
        remedy = "; pass use_cache=False in the example" if name.endswith("Cache") else ""
        raise Uncapturable(
            f"{where} is of type {name}, which cannot be taken apart into tensors and "
            f"constants{remedy}"
        )
    if kind == "constant":
        return Structure("constant", type(value), value)
    parts, detail = _parts(value, kind)
    children = tuple(
        _walk(part, leaves, f"{where}[{_label(detail, index)!r}]", depth + 1)
        for index, part in enumerate(parts)
    )
    return Structure(kind, type(value), detail, children)


def _fake(value: torch.Tensor) -> bool:
    """Whether this stands for a tensor while a program is being traced."""
    return type(value).__module__.startswith(("torch._subclasses", "torch.fx"))


def _kind(value: Any) -> _Kind | None:
    cls = type(value)
    if isinstance(value, (*_CONSTANTS, *_TORCH_CONSTANTS)):
        return "constant"
    if cls is dict:
        return "mapping"
    if cls in (list, tuple):
        return "sequence"
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return "named"
    if cls in pytree.SUPPORTED_NODES:
        return "node"
    if dataclasses.is_dataclass(value) and all(f.init for f in dataclasses.fields(value)):
        return "fields"
    return None


def _parts(value: Any, kind: _Kind) -> tuple[Sequence[Any], Any]:
    if kind == "mapping":
        return tuple(value.values()), tuple(value)
    if kind == "fields":
        names = tuple(f.name for f in dataclasses.fields(value))
        return tuple(getattr(value, name) for name in names), names
    if kind == "node":
        return pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
    return value, None


def _label(detail: Any, index: int) -> Any:
    return detail[index] if isinstance(detail, tuple) and len(detail) > index else index


def _same(value: Any, constant: Any) -> bool:
    """Equal, with NaN equal to itself (``float("nan")`` as an argument is still a constant)."""
    return bool(value == constant or (value != value and constant != constant))
