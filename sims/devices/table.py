"""The devices that ship: published peaks with their sources, and fits with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from types import MappingProxyType

import numpy as np

from sims.devices.model import DeviceModel, Fit, Specs

# Hardware and framework as LLM-Inference-Bench names them.
MEASURED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "a100": ("Nvidia A100 GPU", "vLLM"),
        "a100-tensorrt-llm": ("Nvidia A100 GPU", "TensorRT-LLM"),
        "h100": ("Nvidia H100 GPU", "vLLM"),
        "h100-tensorrt-llm": ("Nvidia H100 GPU", "TensorRT-LLM"),
        "gh200": ("Nvidia GH200 GPU", "vLLM"),
        "mi300x": ("AMD MI300X GPU", "vLLM"),
        "mi250": ("AMD MI250 GPU", "vLLM"),
        "gaudi2": ("Habana Gaudi2", "Deepspeed"),
    }
)


def _published(
    tflop_per_s: float, bandwidth: float, memory: float, source: str, precision: str = "fp16"
) -> Specs:
    return Specs(precision, tflop_per_s, bandwidth, memory, source, source, source)


# None of these was checked against a data sheet: each names where it was read.
_HWCONF = "hardware table of a Huawei simulator (HWConf), transcribed"
_ASCEND_SPECS = _HWCONF + "; other tables have 6 to 10 % more compute"
_LLM_PROF = "github.com/citsjtu2020/LLM-Prof hardware_spec.md"
_PREDICTOR = "github.com/feitang0/LM-Predictor hardware.py"
_LOCKWOOD = "glennklockwood.com/garden/processors/A100, which cites NVIDIA's data sheet"
_GAUDI = "Intel's figures as reported by pcguia.pt, April 2024"
_MI250 = "AMD's table as reported by zexron.com and yobitel.com; both dies together"
_GH200 = Specs(
    "fp16",
    989,
    4000,
    96,
    "the GPU of an H100 SXM: " + _HWCONF,
    "commonly quoted 4 TB/s of the HBM3 variant, source not checked",
    "spheron.network/blog/nvidia-gh200-guide",
)
_A100 = _published(312, 1555, 40, _LOCKWOOD)
_H100 = _published(989, 3350, 80, _HWCONF)

SPECS: Mapping[str, Specs] = MappingProxyType(
    {
        # The rows say only "A100": their batches stop fitting where 40 GiB end.
        "a100": _A100,
        "a100-tensorrt-llm": _A100,
        "a100-80gb": _published(312, 2039, 80, _LLM_PROF),
        "h100": _H100,
        "h100-tensorrt-llm": _H100,
        "h200": _published(989, 4800, 141, _LLM_PROF),
        "gh200": _GH200,
        "mi300x": _published(1307, 5300, 192, "listing found by code search, transcribed"),
        "mi250": _published(362.1, 3277, 128, _MI250),
        "gaudi2": _published(432, 2450, 96, _GAUDI, "bf16"),
        "tpu-v5e": _published(197, 819, 16, _PREDICTOR, "bf16"),
        "ascend-910b2": _published(353.8, 1600, 64, _ASCEND_SPECS),
        "ascend-910b3": _published(294.9, 1600, 64, _ASCEND_SPECS),
        "ascend-910b4": _published(245.7, 800, 32, _ASCEND_SPECS),
    }
)

# python -m sims.devices.fit --data FOLDER, on LLM-Inference-Bench (Argonne Leadership Computing
# Facility, BSD-3-Clause, https://github.com/argonne-lcf/LLM-Inference-Bench), seed 0; training
# rows only. In the order of Fit's fields.
FITS: Mapping[str, Fit] = MappingProxyType(
    {
        "a100": Fit(0.573, 0.851, 0.698, 0.304, 74.7, 53.2, 49.1, 58),
        "a100-tensorrt-llm": Fit(0.623, 0.861, 0.763, 0.328, 60.4, 6.44, 48.9, 61.3),
        "h100": Fit(0.738, 0.932, 0.796, 0.427, 83.4, 69.5, 39.6, 378),
        "h100-tensorrt-llm": Fit(0.549, 0.875, 0.876, 0.384, 59.9, 13.8, 26.8, 191),
        "gh200": Fit(0.532, 0.743, 0.746, 0.391, 66.1, 62, 20, 100),
        "mi300x": Fit(0.066, 0.724, 0.372, 0.967, 151, 38.2, 94.6, 37.7),
        "mi250": Fit(0.342, 0.461, 0.661, 0.607, 162, 104, 96.4, 141),
        "gaudi2": Fit(0.597, 0.954, 0.635, 0.353, 27.6, 24.7, 86, 123),
    }
)
# Rows used, and median and 90th-percentile error in percent on those held out, of the same run.
# The form of the model was chosen with this split in view; docs/device-models.md has other splits.
HELD_OUT_PERCENT: Mapping[str, tuple[int, float, float]] = MappingProxyType(
    {
        "a100": (235, 3.3, 8.8),
        "a100-tensorrt-llm": (244, 5.2, 31.4),
        "h100": (369, 4.4, 13.2),
        "h100-tensorrt-llm": (262, 3.7, 22.1),
        "gh200": (180, 2.4, 6.1),
        "mi300x": (719, 8.5, 21.3),
        "mi250": (393, 6.0, 13.0),
        "gaudi2": (326, 6.1, 14.4),
    }
)


def median_fit(fits: Sequence[Fit]) -> Fit:
    """Every parameter's median over `fits`, at least one: for a device that nobody measured.

    >>> a, b, c = (Fit(s, s, s, s, 10.0, 10.0, 10.0, 10.0) for s in (0.2, 0.5, 0.6))
    >>> median_fit([a, b, c]).compute_share
    0.5
    """
    if not fits:
        raise ValueError("fits must hold at least one fit, got none")
    return Fit(*map(float, np.median([astuple(fit) for fit in fits], axis=0)))


def _measured(name: str) -> DeviceModel:
    rows, median, p90 = HELD_OUT_PERCENT[name]
    evidence = f"measured rows: {rows}, held-out median error {median} %, p90 {p90} %"
    if name == "gh200":
        evidence += "; only single devices, the exchange terms are not fitted"
    return DeviceModel(name, SPECS[name], FITS[name], MEASURED[name][1], evidence)


def _unmeasured(name: str, remark: str) -> DeviceModel:
    # One fit per kind of hardware, so that no vendor counts twice.
    fit = median_fit([fit for key, fit in FITS.items() if "tensorrt" not in key])
    # The range is what `device_fit` prints when it treats each fitted device as unmeasured.
    evidence = (
        f"published specs with the median efficiencies of the fitted devices; {remark}; "
        "where this recipe could be checked, its median error was 4 to 52 %"
    )
    return DeviceModel(name, SPECS[name], fit, "none", evidence)


def _carried(name: str, fitted: str) -> DeviceModel:
    evidence = f"published specs with the efficiencies of {fitted}; no measured rows"
    return DeviceModel(name, SPECS[name], FITS[fitted], MEASURED[fitted][1], evidence)


_NONE = "no measured rows"
_ASCEND = "no measured rows used, four exist: 29 to 45 % too fast on the two that can be priced"

DEVICES: Mapping[str, DeviceModel] = MappingProxyType(
    {
        **{name: _measured(name) for name in MEASURED},
        "a100-80gb": _carried("a100-80gb", "a100"),
        "h200": _carried("h200", "h100"),
        "tpu-v5e": _unmeasured("tpu-v5e", _NONE),
        "ascend-910b2": _unmeasured("ascend-910b2", _NONE),
        "ascend-910b3": _unmeasured("ascend-910b3", _NONE),
        "ascend-910b4": _unmeasured("ascend-910b4", _ASCEND),
    }
)
"""Every device that ships, by name; `evidence` says how far to believe it."""
