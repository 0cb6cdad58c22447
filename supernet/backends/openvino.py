"""OpenVINO on the CPU, read from the ONNX file. Runs without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from supernet.backends.base import (
    Source,
    check_run,
    read_signature,
    supports_numpy,
    write_signature,
)
from supernet.backends.onnx_file import missing_exporter
from supernet.domain.engine import FEW_BITS, INEXACT, Engine, words
from supernet.plans import PlanSpec
from supernet.signature import Signature

__all__ = ["OpenVinoBackend", "OpenVinoPlan"]

_FILE = "model.xml"
_HINTS = {"fp32": "f32", "bf16": "bf16"}

# Measured on tiny programs; tests/supernet/domain/test_domain.py holds what follows from it.
_EXTREMES = words(
    """max min amax amin maximum minimum max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d"""
)
_SORTED = words("argmax argmin sort topk argsort")
_ENGINE = Engine(
    bits=32,
    narrow=dict.fromkeys(INEXACT, FEW_BITS),
    saturates=frozenset("*"),
    asserts=False,
    dtypes={
        "float64": "it computes float64 in 32 bits",
        "float16": "it computes float16 in 32 bits",
        "bfloat16": "it computes bfloat16 in 32 bits",
    },
    checks_indices=False,
    drops_nan=_EXTREMES
    | _SORTED
    | words(
        """relu relu6 clamp clamp_min clamp_max hardtanh hardsigmoid hardswish gt ge lt le eq ne
        where masked_fill isnan isfinite linalg_vector_norm norm exp expm1 logsumexp logaddexp
        softmax log_softmax sign to _to_copy bool atan2 celu elu selu nan_to_num any all
        logical_not"""
    ),
    drops_inf=_EXTREMES | words("hardswish logaddexp atan2 linalg_vector_norm norm"),
)


class OpenVinoBackend:
    """The CPU plugin, one stream per plan."""

    name = "openvino"
    needs_torch = False
    recompiles = True

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed; pip install 'evolve-runtime[openvino]'"
        return missing_exporter()

    def version(self) -> str:
        return version("openvino")

    def precisions(self, isa: str) -> tuple[str, ...]:
        # Without hardware for it, bf16 is emulated and slower than float.
        return ("fp32", "bf16") if "avx512_bf16" in isa or "amx_bf16" in isa else ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        return supports_numpy(signature)

    def engine(self, fusion: str) -> Engine:
        return _ENGINE

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        import openvino

        model = openvino.Core().read_model(str(source.onnx()))
        openvino.save_model(model, str(out / _FILE), compress_to_fp16=False)
        write_signature(source.signature, out)

    def load(self, artifact: Path, spec: PlanSpec) -> OpenVinoPlan:
        import openvino

        core = openvino.Core()
        config = {
            # Not left to the default: it silently computes in bf16 where the CPU has it.
            "INFERENCE_PRECISION_HINT": _HINTS[spec.precision],
            "INFERENCE_NUM_THREADS": spec.threads,
            "NUM_STREAMS": 1,
            # Several workers in one process would all be pinned to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core.compile_model(core.read_model(str(artifact / _FILE)), "CPU", config)
        return OpenVinoPlan(compiled, read_signature(artifact))


class OpenVinoPlan:
    """One compiled model and its one infer request.

    Kernels for a new shape are made at its first run, so that is slower than the next.
    """

    arrays: Literal["numpy"] = "numpy"

    def __init__(self, compiled: Any, signature: Signature) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._wanted = len(signature.inputs)
        self._dtypes = [np.dtype(spec.dtype) for spec in signature.outputs]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        check_run(inputs, self._wanted, is_open=self._request is not None)
        outputs = self._request.infer(list(inputs), share_inputs=True, share_outputs=True)
        # The request's own buffers are written by its next run: the caller gets copies.
        return [np.array(outputs[i], dtype, copy=True) for i, dtype in enumerate(self._dtypes)]

    def close(self) -> None:
        self._request = None
        self._compiled = None
