"""Trained weights of a sub-network, read from a file and held against the model they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from supernet.errors import WrongArgument

if TYPE_CHECKING:
    from torch import Tensor

    from supernet.elastic.subnet import SubnetSpec

__all__ = ["digest_of", "name_of", "read_weights", "tied", "write_weights"]

_CHUNK = 1 << 20


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write them as safetensors: the same bytes for the same weights."""
    from safetensors.torch import save_file

    plain = {name: weights[name].detach().cpu().contiguous().clone() for name in sorted(weights)}
    save_file(plain, str(path))


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def name_of(spec: SubnetSpec, weights: Path | None) -> str:
    """The name of a tier: the same for the same sub-network with the same file of weights."""
    asked = f"{spec.key} {'' if weights is None else digest_of(weights)}"
    return f"subnet-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def read_weights(path: Path, digest: str, original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in the safetensors file of that digest, on the device of the ``original``'s.

    Names that share one tensor in the original and hold equal numbers here share one again. Raises
    `WrongArgument` where the file is not the one that was meant, or holds what the original does
    not have, another dtype, a NaN, or an infinity in a place of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if digest_of(path) != digest:
        raise WrongArgument(f"weights must stay as they were adopted, got {path.name} changed")
    try:
        given = load_file(str(path))
    except SafetensorError as error:
        raise WrongArgument(f"weights must be a safetensors file: {error}") from error
    unknown = sorted(given.keys() - original.keys())
    if unknown or not given:
        got = repr(unknown[0]) if unknown else "none"
        raise WrongArgument(f"weights must be named as the model names its own, got {got}")
    for name, weight in given.items():
        _check(name, weight, original[name])
    return tied({n: w.to(original[n].device) for n, w in given.items()}, original)


def _check(name: str, given: Tensor, own: Tensor) -> None:
    if given.dtype is not own.dtype:
        raise WrongArgument(f"the weight {name!r} must be {own.dtype}, got {given.dtype}")
    if not given.is_floating_point() or bool(given.isfinite().all()):
        return
    if bool(given.isnan().any()):
        raise WrongArgument(f"the weight {name!r} must be a number everywhere, got a NaN")
    if bool(own.isfinite().all()):
        raise WrongArgument(f"the weight {name!r} must be finite, as the model's own is")


def tied(given: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, one tensor where the original's are one and these are equal."""
    from supernet.elastic.axes.tracing import identity

    found = dict(given)
    first: dict[object, Tensor] = {}
    for name, weight in given.items():
        if name not in original:
            continue
        same = first.setdefault(identity(original[name]), weight)
        if same.shape == weight.shape and bool(same.eq(weight).all()):
            found[name] = same
    return found
