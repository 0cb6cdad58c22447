"""The work of two kinds of models: large language models by step, and batch models by table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sims.devices.model import GIB, MIB, DeviceModel, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats = npt.NDArray[np.float64]

# vLLM's and TensorRT-LLM's default share of device memory for weights and cache together.
_USABLE = 0.9


@dataclass(frozen=True, slots=True)
class Transformer:
    """A decoder-only language model, as far as its work depends on it.

    `parameters`: of all experts. `kv_heads`: averaged where layers differ. `experts`: of which
    each token uses `experts_used`. `bytes_per_value`: of weights and cache, 2 for fp16.

    >>> llama = Transformer(8.03e9, layers=32, hidden=4096, heads=32, kv_heads=8)
    >>> int(llama.cache_bytes_per_token)
    131072
    """

    parameters: float
    layers: int
    hidden: int
    heads: int
    kv_heads: float
    head_width: int = 128
    active_parameters: float | None = None
    experts: int = 1
    experts_used: int = 1
    bytes_per_value: float = 2.0

    def __post_init__(self) -> None:
        for name in ("parameters", "layers", "hidden", "heads", "kv_heads", "bytes_per_value"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")
        if self.kv_heads > self.heads:
            raise ValueError(f"kv_heads must be at most heads ({self.heads}), got {self.kv_heads}")
        if self.experts > 1 and self.active_parameters is None:
            raise ValueError("active_parameters must be given for a mixture of experts, got None")

    @property
    def used_parameters(self) -> float:
        """Parameters that one token is multiplied with."""
        return self.parameters if self.active_parameters is None else self.active_parameters

    @property
    def cache_bytes_per_token(self) -> float:
        """Keys and values of all layers."""
        return 2 * self.bytes_per_value * self.layers * self.kv_heads * self.head_width

    def read_bytes(self, tokens: float) -> float:
        """Weights that a call on `tokens` reads: experts that no token picks stay unread.

        Tokens are taken to pick their experts evenly and independently.
        """
        if self.experts == 1:
            return self.parameters * self.bytes_per_value
        share = self.experts_used / self.experts
        common = (self.used_parameters - self.parameters * share) / (1 - share)
        touched = 1 - (1 - share) ** tokens
        return float((common + (self.parameters - common) * touched) * self.bytes_per_value)


def prefill(model: Transformer, rows: float, length: float) -> Work:
    """Work of reading `rows` prompts of `length` tokens each, causal attention included.

    >>> gpt = Transformer(1e9, layers=10, hidden=2048, heads=16, kv_heads=16)
    >>> prefill(gpt, rows=1, length=100).flops / 1e9  # 2 × 1e9 × 100, and 0.4 for attention
    200.4096
    """
    tokens = _positive("rows", rows) * _positive("length", length)
    attention = 2 * model.layers * model.heads * model.head_width * tokens * length
    return Work(
        flops=2 * model.used_parameters * tokens + attention,
        moved_bytes=model.read_bytes(tokens),
        layers=model.layers,
        rows=rows,
        exchanged_bytes=_exchanged(model, tokens),
    )


def decode(model: Transformer, rows: float, context: float) -> Work:
    """Work of one further token for each of `rows` sequences that hold `context` tokens.

    >>> gpt = Transformer(1e9, layers=10, hidden=2048, heads=16, kv_heads=4)
    >>> decode(gpt, rows=8, context=1000).cache_bytes == 8 * 1000 * gpt.cache_bytes_per_token
    True
    """
    return Work(
        flops=2 * model.used_parameters * _positive("rows", rows),
        moved_bytes=model.read_bytes(rows),
        cache_bytes=model.cache_bytes_per_token * rows * _positive("context", context),
        query_groups=model.heads / model.kv_heads,
        layers=model.layers,
        rows=rows,
        exchanged_bytes=_exchanged(model, rows),
    )


def resident_rows(memory_gib: float, model: Transformer, tokens: float, devices: int = 1) -> float:
    """Sequences of `tokens` whose cache fits beside the weights, not rounded, at least 1.

    Raises ValueError where the weights alone do not fit.

    >>> llama = Transformer(6.74e9, layers=32, hidden=4096, heads=32, kv_heads=32)
    >>> round(resident_rows(40, llama, tokens=1024), 1)
    46.9
    """
    weights = model.parameters * model.bytes_per_value
    usable = _USABLE * memory_gib * GIB * devices
    if weights >= usable:
        raise ValueError(
            f"weights must fit into {usable / GIB:.0f} GiB usable on {devices} devices, got "
            f"{weights / GIB:.0f} GiB; use more devices or fewer bytes per value"
        )
    return max(1.0, (usable - weights) / (model.cache_bytes_per_token * tokens))


def generation_ms(
    device: DeviceModel, model: Transformer, rows: int, prompt: int, new: int, devices: int = 1
) -> float:
    """Milliseconds until all of `rows` prompts of `prompt` tokens have `new` tokens more.

    One batch that starts together; what does not fit into memory waits its turn, as fractions
    of a batch. `devices` share every layer (tensor parallelism).

    >>> from sims.devices.table import DEVICES
    >>> llama = Transformer(8.03e9, layers=32, hidden=4096, heads=32, kv_heads=8)
    >>> seconds = generation_ms(DEVICES["h100"], llama, rows=1, prompt=128, new=128) / 1e3
    >>> 0.8 < seconds < 1.2
    True
    """
    mean_context = prompt + new / 2
    fitting = resident_rows(device.specs.memory_gib, model, mean_context, devices)
    together = min(float(rows), fitting)
    first = device.latency_ms(prefill(model, together, prompt), devices)
    step = device.latency_ms(decode(model, together, mean_context), devices)
    return float(rows / together * (first + new * step))


@dataclass(frozen=True, slots=True)
class BatchModel:
    """A model that answers a batch in one call: an encoder tier, or a network on images.

    `gflop_per_token`: multiply and add counted apart; for images one token is one image and the
    only length is 1. `weight_mib`: read once per call. `layers`: calls of the driver, roughly.
    """

    gflop_per_token: float
    weight_mib: float
    layers: int = 1
    activation_mib_per_token: float = 0.0

    def work(self, rows: Floats | float, length: Floats | float) -> Work:
        """Work of one padded batch; a sequence costs nothing beside its tokens."""
        tokens = rows * length
        return Work(
            flops=tokens * self.gflop_per_token * 1e9,
            moved_bytes=(self.weight_mib + tokens * self.activation_mib_per_token) * MIB,
            layers=self.layers,
        )


def cost_ms(
    device: DeviceModel, model: BatchModel, rows: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Floats:
    """Milliseconds float64 [R, L] for every batch size of `rows` [R] and length of `lengths` [L].

    One plan's slice of `sims.Service.cost_ms`. Raises ValueError for sizes below 1.

    >>> from sims.devices.table import DEVICES
    >>> encoder = BatchModel(gflop_per_token=0.04, weight_mib=44.0, layers=6)
    >>> cost_ms(DEVICES["a100"], encoder, np.array([1, 8]), np.array([16, 64, 256])).shape
    (2, 3)
    """
    for name, sizes in (("rows", rows), ("lengths", lengths)):
        if sizes.ndim != 1 or sizes.size == 0 or sizes.min() < 1:
            raise ValueError(f"{name} must be one row of sizes of at least 1, got {sizes}")
    by_row, by_length = rows[:, None].astype(np.float64), lengths[None, :].astype(np.float64)
    return np.asarray(device.latency_ms(model.work(by_row, by_length)), dtype=np.float64)


def _exchanged(model: Transformer, tokens: float) -> float:
    return 2.0 * model.layers * tokens * model.hidden * model.bytes_per_value  # 2 per layer


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, got {value}")
    return value
