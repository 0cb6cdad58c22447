"""Latency of one call on one kind of device: a roofline with the shares of its peaks.

After Williams, Waterman & Patterson, "Roofline", CACM 52(4), 2009, plus what serving adds: a
cost per layer and per sequence, the key-value cache, and exchanges between parallel devices.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from profiler.fingerprint import DeviceFingerprint

Floats = npt.NDArray[np.float64]
Amount: TypeAlias = "float | Floats"

MIB = 2.0**20
GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Work:
    """What one call has to do: numbers, or arrays of one shape for many calls at once.

    `flops`: multiply and add counted apart. `moved_bytes`: weights and activations, read once.
    `cache_bytes`: keys and values read once; `query_groups`: query heads per key-value head.
    `layers`, `rows`: how often the fixed costs arise (0: never). `exchanged_bytes`: summed over
    the all-reduces of the call, counted once whatever the number of devices.
    """

    flops: Amount
    moved_bytes: Amount
    cache_bytes: Amount = 0.0
    query_groups: Amount = 1.0
    layers: Amount = 0.0
    rows: Amount = 0.0
    exchanged_bytes: Amount = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = np.asarray(getattr(self, field.name))
            least = 1.0 if field.name == "query_groups" else 0.0
            if not (np.isfinite(value) & (value >= least)).all():
                raise ValueError(
                    f"{field.name} must be finite and at least {least:g}, "
                    f"got {getattr(self, field.name)}"
                )


@dataclass(frozen=True, slots=True)
class Specs:
    """Published peaks of one device, each with where it was read.

    `tflop_per_s`: dense, at `precision`. Memory sizes that vendors print as GB of HBM are GiB.
    """

    precision: str
    tflop_per_s: float
    bandwidth_gb_per_s: float
    memory_gib: float
    tflop_source: str
    bandwidth_source: str
    memory_source: str

    def __post_init__(self) -> None:
        for name in ("tflop_per_s", "bandwidth_gb_per_s", "memory_gib"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and greater than 0, got {value}")


@dataclass(frozen=True, slots=True)
class Fit:
    """How far below its peaks a device stays, and what every layer and sequence costs.

    `compute_share`, `memory_share`, `cache_share`: of the peak rates, in (0, 1]. `reread`: 0 when
    grouped query heads share one read of the cache, 1 when each head reads for itself.
    `layer_us`, `row_us`: per layer and per sequence of a call. `exchange_us`: per layer once
    several devices share it; `exchange_gb_per_s`: of their all-reduces. `blend`: exponent that
    joins compute and memory time, inf for the larger of the two, 1 for their sum.
    """

    compute_share: float
    memory_share: float
    cache_share: float
    reread: float
    layer_us: float
    row_us: float
    exchange_us: float
    exchange_gb_per_s: float
    blend: float = inf

    def __post_init__(self) -> None:
        for name in ("compute_share", "memory_share", "cache_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not 0 <= self.reread <= 1:
            raise ValueError(f"reread must be in [0, 1], got {self.reread}")
        for name in ("layer_us", "row_us", "exchange_us"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {getattr(self, name)}")
        if not self.exchange_gb_per_s > 0:
            raise ValueError(
                f"exchange_gb_per_s must be greater than 0, got {self.exchange_gb_per_s}"
            )
        if not self.blend >= 1:
            raise ValueError(f"blend must be at least 1 (inf: the larger), got {self.blend}")

    def latency_ms(self, specs: Specs, work: Work, devices: Amount = 1) -> Amount:
        """Milliseconds of `work` split evenly over `devices`; see `DeviceModel.latency_ms`."""
        bytes_per_ms = specs.bandwidth_gb_per_s * 1e6 * devices
        compute_ms = work.flops / (specs.tflop_per_s * 1e9 * self.compute_share * devices)
        memory_ms = work.moved_bytes / (bytes_per_ms * self.memory_share)
        cache_ms = (
            work.cache_bytes * work.query_groups**self.reread / (bytes_per_ms * self.cache_share)
        )
        shared = np.asarray(devices) > 1
        exchange_ms = np.where(shared, work.layers * self.exchange_us * 1e-3, 0.0) + (
            # A ring all-reduce sends 2 (n - 1) / n of the payload over each link.
            work.exchanged_bytes * 2 * (1 - 1 / devices) / (self.exchange_gb_per_s * 1e6)
        )
        fixed_ms = (work.layers * self.layer_us + work.rows * self.row_us) * 1e-3
        total = fixed_ms + _joined(compute_ms, memory_ms, self.blend) + cache_ms + exchange_ms
        return total if isinstance(total, np.ndarray) and total.ndim else float(total)


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """One kind of device: published peaks, the fitted shares of them, and what backs the fit.

    `software`: what served the rows of the fit; a fit is of both, never of the silicon alone.
    `evidence`: how many measured rows and the error on those held out, or that there are none.

    >>> peak = Specs("fp16", 100.0, 1000.0, 16.0, "example", "example", "example")
    >>> ideal = Fit(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 100.0)
    >>> device = DeviceModel("example", peak, ideal, "none", "made up, no measured rows")
    >>> device.latency_ms(Work(flops=1e12, moved_bytes=1e9))  # 10 ms computing, 1 ms moving
    10.0
    """

    name: str
    specs: Specs
    fit: Fit
    software: str
    evidence: str

    def __post_init__(self) -> None:
        for name in ("name", "evidence"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty; say what is known, or that nothing is")

    def latency_ms(self, work: Work, devices: int = 1) -> Amount:
        """Milliseconds of one call, split evenly over `devices` of this kind.

        layers × layer_us + rows × row_us + max(compute, memory) + cache + exchange. A float for
        one call, float64 of the shape of `work`'s arrays for many.
        """
        if devices < 1:
            raise ValueError(f"devices must be at least 1, got {devices}")
        return self.fit.latency_ms(self.specs, work, devices)


def of_fingerprint(fingerprint: DeviceFingerprint, dtype: str = "fp32") -> DeviceModel:
    """The device that `profiler` measured, with its own rates as peaks: how CPUs are modelled.

    Raises ValueError where the fingerprint holds no measured rate of `dtype` or of the memory.

    >>> from profiler.fingerprint import DeviceFingerprint, Rate
    >>> host = DeviceFingerprint("cpu-x", "cpu", "x", "x86_64", 2, 4, memory_bytes=2**33,
    ...     memory_bandwidth_gb_per_s=20.0, matrix_gflop_per_s={"fp32": Rate(100.0, 200.0)})
    >>> of_fingerprint(host).latency_ms(Work(flops=1e9, moved_bytes=0.0))  # 1 of 200 GFLOP/s
    5.0
    """
    bandwidth = fingerprint.memory_bandwidth_gb_per_s
    if not bandwidth or dtype not in fingerprint.matrix_gflop_per_s:
        known = ", ".join(fingerprint.matrix_gflop_per_s) or "none"
        raise ValueError(
            f"fingerprint must hold a measured {dtype} rate and memory bandwidth, got rates "
            f"{known} and bandwidth {bandwidth}; measure with profiler.units.FingerprintDatabase"
        )
    source = "measured on this host by profiler.fingerprint"
    memory_gib = (fingerprint.memory_bytes or GIB) / GIB
    rate = fingerprint.matrix_gflop_per_s[dtype].all_cores / 1e3
    specs = Specs(dtype, rate, bandwidth, memory_gib, source, source, source)
    # Rates that were measured need no share; what a layer costs beside them was not measured.
    fit = Fit(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, bandwidth)
    evidence = "rates measured on this host, no overheads; no measured rows of a model"
    return DeviceModel(fingerprint.key, specs, fit, "none", evidence)


def _joined(a: Amount, b: Amount, blend: float) -> Amount:
    larger, smaller = np.maximum(a, b), np.minimum(a, b)
    if blend == inf:
        return np.asarray(larger)
    ratio = np.divide(smaller, larger, out=np.zeros_like(larger * 1.0), where=larger > 0)
    return np.asarray(larger * (1 + ratio**blend) ** (1 / blend))
