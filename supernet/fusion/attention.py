"""Attention by a kernel of ours: half the time of torch's on CPUs with AVX-512 (decision 0015).

`attention.cpp` is compiled where plans are built (about a second), travels with a plan's files and
is called through a plain C function. What it does not take (several threads, other types, sizes
or ranks) stays torch's own `scaled_dot_product_attention`.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

__all__ = ["ATTENTION", "add_masks", "attend", "compiler", "load", "prepare", "put_in", "write"]

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
SIZES = (32, 64, 96, 128)
"""Of a head, in numbers: what the kernel is written for."""

_SOURCE, _LIBRARY = Path(__file__).with_name("attention.cpp"), "attention.so"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared",
          "-fPIC")  # fmt: skip
_COMPILE_S = 120.0
_Strides = ctypes.c_int64 * 13


@dataclass(frozen=True, slots=True)
class _Kernel:
    path: Path
    run: Any
    scratch: Any


_loaded: list[_Kernel] = []
"""At most one: every plan of a process brings the same code."""


def compiler() -> str | None:
    """The C++ compiler to use: `CXX` if set, else g++, else clang++; None where there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def prepare(folder: Path) -> str | None:
    """Compile the kernel into `folder` and load it; why that can't be, None if it was done.

    `folder` must stay while the process may still `write` what it loaded.
    """
    if _loaded:
        return None
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"it is written for x86-64, not {platform.machine()}"
    if (cxx := compiler()) is None:
        return "no C++ compiler is on the PATH"
    try:
        command = [cxx, *_FLAGS, str(_SOURCE), "-o", str(folder / _LIBRARY)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{cxx} could not be run: {error}"
    if done.returncode:
        return f"{cxx} failed: {next(iter(done.stderr.splitlines()), done.returncode)}"
    load(folder)
    return None


def load(folder: Path) -> None:
    """Use the kernel that `folder` holds. Raises `OSError` where it holds none for this machine."""
    if _loaded:
        return
    library = ctypes.CDLL(str(folder / _LIBRARY))
    run, scratch = library.evolve_attention, library.evolve_attention_scratch
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    run.argtypes = [
        *[pointer] * 5, *[number] * 5, pointer, ctypes.c_float, ctypes.c_int, pointer,
    ]  # fmt: skip
    scratch.argtypes, scratch.restype = [number, number], number
    _loaded.append(_Kernel(folder / _LIBRARY, run, scratch))


def write(folder: Path) -> None:
    """Put the kernel that this process compiled into `folder`, where `load` finds it."""
    shutil.copyfile(_loaded[0].path, folder / _LIBRARY)


def put_in(module: GraphModule) -> int:
    """Have the kernel do every attention of `module` that it can; how many. Needs `prepare`."""
    nodes = module.graph.find_nodes(op="call_function", target=ATTENTION)
    found = [node for node in nodes if _fits(node)]
    if not _loaded or not found:
        return 0
    add_masks(module.graph)
    for node in found:
        node.target = attend
    module.recompile()
    return len(found)


def _fits(node: Node) -> bool:
    names = ("query", "key", "value", "attn_mask", "dropout_p")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if given.get("dropout_p", 0.0) != 0.0 or given.get("enable_gqa", False):
        return False
    parts: list[Tensor] = [given[name].meta["val"] for name in names[:3]]
    fits = all(
        part.dtype is torch.float32 and part.device.type == "cpu" and part.ndim == 4
        for part in parts
    )
    sizes = {part.shape[-1] for part in parts}
    return fits and len(sizes) == 1 and next(iter(sizes)) in SIZES


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Torch's `scaled_dot_product_attention` of float32 [batch, head, row, size], one of `SIZES`.

    A mask holds numbers to be added. The result lies in memory as [batch, row, head, size].
    """
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    alike = key.shape == value.shape == (batch, heads, keys, size)
    if torch.get_num_threads() > 1 or not alike or 0 in (*query.shape, keys):
        return ATTENTION(query, key, value, attn_mask, 0.0, is_causal, scale=scale)  # type: ignore[no-any-return]
    parts = [part if part.stride(3) == 1 else part.contiguous() for part in (query, key, value)]
    bias = None if attn_mask is None else attn_mask.expand(batch, heads, queries, keys)
    strides = _Strides(
        *(step for part in parts for step in part.stride()[:3]),
        *((0, 0, 0, 0) if bias is None else bias.stride()),
    )
    kernel = _loaded[0]
    out = query.new_empty((batch, queries, heads, size))
    scratch = query.new_empty(kernel.scratch(keys, size))
    failed = kernel.run(
        *(part.data_ptr() for part in parts), None if bias is None else bias.data_ptr(),
        out.data_ptr(), batch, heads, queries, keys, size, strides,
        1 / math.sqrt(size) if scale is None else scale, is_causal, scratch.data_ptr(),
    )  # fmt: skip
    if failed:
        raise ValueError(f"the last dim of query must be one of {SIZES}, got {size}")
    return out.transpose(1, 2)


def add_masks(graph: Graph) -> None:
    """Masks of booleans become the numbers that attention adds, once and not once per layer."""
    numbers: dict[tuple[Node, torch.dtype], Node] = {}
    for node in graph.find_nodes(op="call_function", target=ATTENTION):
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        if not isinstance(mask, Node) or mask.meta["val"].dtype is not torch.bool:
            continue
        key = mask, node.meta["val"].dtype
        if key not in numbers:
            with graph.inserting_after(mask):
                added = graph.call_function(torch.ops.aten.where.Scalar, (mask, 0.0, -math.inf))
            with graph.inserting_after(added):
                numbers[key] = graph.call_function(torch.ops.aten.to.dtype, (added, key[1]))
        node.replace_input_with(mask, numbers[key])
