"""A model's parameters and buffers: which kinds plans can hold, and what they contain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from supernet.errors import Uncapturable

__all__ = ["check_weights", "digest_tensors", "held"]

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}


def held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, each with its path."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def check_weights(model: nn.Module) -> None:
    """``Uncapturable`` names the first parameter or buffer of a kind that plans cannot hold."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise Uncapturable(
            "the model is or holds a ScriptModule, whose code torch.export cannot read; wrap the "
            "Python module that it was made of"
        )
    devices: dict[str, str] = {}
    for name, tensor in held(model):
        if (why := _unfit(tensor)) is not None:
            raise Uncapturable(f"the weight {name!r} {why}")
        devices.setdefault(str(tensor.device), name)
    if len(devices) > 1:
        places = " and ".join(f"{name!r} on {device}" for device, name in devices.items())
        raise Uncapturable(f"the model is spread over several devices: {places}")


def _unfit(tensor: Tensor) -> str | None:
    if is_lazy(tensor):
        return "is not initialised yet; call the model once before wrapping it"
    if tensor.is_meta:
        return "has no data (device meta); load it before wrapping the model"
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}, not a plain tensor"
    if tensor.layout is not torch.strided:
        return f"is sparse ({tensor.layout}); plans hold dense ones only, as .to_dense() gives"
    if tensor.is_quantized:
        return "is quantized; plans hold plain ones only, as .dequantize() gives"
    return None


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, dtypes, shapes and bytes; of kinds without bytes, the names and types."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        shape = "" if is_lazy(tensor) else tuple(tensor.shape)
        digest.update(f"{name}|{tensor.dtype}|{shape}|".encode())
        for plain in _plain(tensor):
            if plain.numel():
                digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(tensor: Tensor) -> list[Tensor]:
    """The dense tensors on the CPU that it is made of; none where it has no data of its own."""
    if is_lazy(tensor) or tensor.is_meta:
        return []
    tensor = tensor.detach().cpu()
    if tensor.is_quantized:
        return [tensor.int_repr().contiguous(), tensor.dequantize().contiguous()]
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices().contiguous(), *_plain(tensor.values())]
    if tensor.layout in _COMPRESSED:
        parts = [getattr(tensor, part)() for part in _COMPRESSED[tensor.layout]]
        return [*(part.contiguous() for part in parts), *_plain(tensor.values())]
    if tensor.layout is not torch.strided:
        return []
    return [tensor.resolve_conj().resolve_neg().contiguous()]
