"""The memory pattern of a batch on one machine: what it moves, and which cache serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiler.fingerprint import DeviceFingerprint
from supernet.fusion.graph.op_graph import Op, OpGraph, OpKind, touched

__all__ = ["FEATURES", "MemoryPattern", "extract_memory_pattern"]

_LEVELS = ("l1", "l2", "l3", "memory")
_RATE_OF = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int8": "int8"}

# FLOPs per byte of a machine whose rates nobody measured. It only has to keep `balance` finite
# and equal for equal graphs: a constant factor on a feature carries no information.
_UNMEASURED_RIDGE = 16.0

FEATURES: tuple[str, ...] = (
    "log_flops",
    "log_bytes_read",
    "log_bytes_written",
    "log_weight_bytes",
    "log_peak_live_bytes",
    "log_intensity",
    "log_balance",
    "pointwise_share",
    "attention_share",
    *(f"served_by_{level}" for level in _LEVELS),
)
"""What `MemoryPattern.features` holds, in order; `log_` is the natural logarithm of 1 + x."""


@dataclass(frozen=True, slots=True)
class MemoryPattern:
    """How one batch uses the memory of one machine, every op run on its own.

    `bytes_read`, `bytes_written`: what the ops ask for, whichever cache answers. `weight_bytes`:
    weights among it, each counted once. `intensity`: FLOPs per byte. `balance`: intensity over
    the machine's own FLOPs per byte; below 1 the memory is the limit (roofline: Williams et al.,
    CACM 52(4), 2009). `served_by`: share of the read bytes that "l1", "l2", "l3" or "memory"
    answers. `pointwise_share`: of the moved bytes. `attention_share`: of the FLOPs, by products
    of two activations and what is fused with them. `peak_live_bytes`: the largest sum of values
    alive at once; inputs count throughout, weights never.
    """

    flops: int
    bytes_read: int
    bytes_written: int
    weight_bytes: int
    intensity: float
    balance: float
    served_by: Mapping[str, float]
    pointwise_share: float
    attention_share: float
    peak_live_bytes: int

    def features(self) -> npt.NDArray[np.float32]:
        """The pattern as `[len(FEATURES)]` finite numbers, sizes in logarithms."""
        sizes = (
            *(self.flops, self.bytes_read, self.bytes_written, self.weight_bytes),
            *(self.peak_live_bytes, self.intensity, self.balance),
        )
        shares = (self.pointwise_share, self.attention_share)
        served = (self.served_by[level] for level in _LEVELS)
        return np.array([*np.log1p(sizes), *shares, *served], dtype=np.float32)


def extract_memory_pattern(graph: OpGraph, fingerprint: DeviceFingerprint) -> MemoryPattern:
    """The pattern of batch after batch of `graph` on the machine of `fingerprint`.

    Rates that were not measured leave `balance` relative to 16 FLOPs per byte; a cache of unknown
    size serves nothing.
    """
    ops = graph.ops()
    read = sum(use.bytes for op in ops for use in op.reads)
    written = sum(op.writes for op in ops)
    flops, moved = sum(op.flops for op in ops), read + written
    weights = {u.name for op in ops for u in op.reads if u.kind == "weight"}
    sizes = touched(ops)
    intensity = flops / moved if moved else 0.0
    return MemoryPattern(
        flops=flops,
        bytes_read=read,
        bytes_written=written,
        weight_bytes=sum(sizes[name] for name in weights),
        intensity=intensity,
        balance=intensity / _ridge(ops, fingerprint),
        served_by=_served_by(ops, sizes, fingerprint),
        pointwise_share=_share(sum(_moved(o) for o in ops if o.kind is OpKind.POINTWISE), moved),
        attention_share=_share(sum(op.flops for op in ops if _in_attention(op)), flops),
        peak_live_bytes=_peak_live_bytes(graph, sizes),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _moved(op: Op) -> int:
    return op.writes + sum(use.bytes for use in op.reads)


def _in_attention(op: Op) -> bool:
    if op.kind is OpKind.MATMUL:
        return all(use.kind != "weight" for use in op.reads)
    return op.kind in (OpKind.ATTENTION, OpKind.SOFTMAX)


def _ridge(ops: tuple[Op, ...], fingerprint: DeviceFingerprint) -> float:
    """FLOPs per byte where the machine's arithmetic and its memory take equally long."""
    rates = fingerprint.matrix_gflop_per_s
    heaviest = max(ops, key=lambda op: op.flops, default=None)
    dtype = _RATE_OF.get(heaviest.dtype, "fp32") if heaviest else "fp32"
    rate = rates.get(dtype) or rates.get("fp32")
    whole = fingerprint.memory_bandwidth_gb_per_s or fingerprint.peak_bandwidth_gb_per_s
    if rate is not None and rate.all_cores and whole:
        return rate.all_cores / whole
    if rate is not None and rate.one_core and fingerprint.core_bandwidth_gb_per_s:
        return rate.one_core / fingerprint.core_bandwidth_gb_per_s
    return _UNMEASURED_RIDGE


def _served_by(
    ops: tuple[Op, ...], sizes: Mapping[str, int], fingerprint: DeviceFingerprint
) -> dict[str, float]:
    """Shares of the read bytes by the nearest level that still holds the tensor.

    A level holds it if it exceeds the tensor's size and the distinct bytes touched since its
    last use: least recently used, fully associative (Mattson et al., IBM Systems Journal 9(2),
    1970). Batches follow one another, so a weight was last used in the batch before; inputs are
    written just ahead of it.
    """
    held = (fingerprint.l1d_bytes, fingerprint.l2_bytes, fingerprint.l3_bytes)
    caches = [(level, size) for level, size in zip(_LEVELS, held, strict=False) if size]
    inputs = {use.name for op in ops for use in op.reads if use.kind == "input"}
    served = dict.fromkeys(_LEVELS, 0)
    stack: dict[str, int] = {}  # least recently used first
    for is_counted in (False, True):
        for name in sorted(inputs):
            _touch(stack, name, sizes)
        for op in ops:
            for use in op.reads if is_counted else ():
                needed = _distance(stack, use.name) + sizes[use.name]
                level = next((name for name, size in caches if size > needed), "memory")
                served[level] += use.bytes
            for use in op.reads:
                _touch(stack, use.name, sizes)
            if op.writes:
                _touch(stack, op.name, sizes)
    total = sum(served.values())
    return {level: _share(size, total) for level, size in served.items()}


def _touch(stack: dict[str, int], name: str, sizes: Mapping[str, int]) -> None:
    stack.pop(name, None)
    stack[name] = sizes[name]


def _distance(stack: dict[str, int], name: str) -> int:
    """Bytes of the tensors used more recently than this one."""
    total = 0
    for other in reversed(stack):
        if other == name:
            break
        total += stack[other]
    return total


def _peak_live_bytes(graph: OpGraph, sizes: Mapping[str, int]) -> int:
    ops = graph.ops()
    last = {use.name: index for index, op in enumerate(ops) for use in op.reads}
    last |= dict.fromkeys(graph.outputs, len(ops))
    change = [0] * (len(ops) + 2)
    change[0] = sum(
        {u.name: sizes[u.name] for o in ops for u in o.reads if u.kind == "input"}.values()
    )
    for index, op in enumerate(ops):
        if op.writes:
            # What an op writes in place takes over from what it read there.
            born = index + 1 if op.effect == "mutates" else index
            change[born] += sizes[op.name]
            change[max(born, last.get(op.name, index)) + 1] -= sizes[op.name]
    return int(np.cumsum(change).max(initial=0))
