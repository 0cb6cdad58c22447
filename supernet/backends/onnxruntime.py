"""ONNX Runtime: float as captured, or int8 by dynamic quantisation. Runs without torch."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from profiler.shapes import Shape
from supernet.backends.base import (
    LoadedPlan,
    Source,
    check_run,
    read_signature,
    supports_numpy,
    write_signature,
)
from supernet.backends.loaded import Microbatched
from supernet.backends.onnx_file import ONNX_FILE, missing_exporter
from supernet.domain.engine import Engine, words
from supernet.errors import BuildFailed
from supernet.microbatches import Microbatches
from supernet.plans import PlanSpec
from supernet.signature import Signature

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimePlan"]

_RECIPE = 2  # counted up when the same program makes other artifacts
_QUANTISED = ("MatMul", "Gemm")

# Measured on tiny programs; tests/supernet/domain/test_domain.py holds what follows from it.
_POOLS = words("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d")
# Clip, Max, Min and Sign compare the lower halves of 64-bit integers.
_HALVED = words("clamp clamp_min clamp_max maximum minimum max min amax amin sign sort topk")
_BY_DOUBLE = words("prod fmod div")  # div where it is cut off towards 0
_SHIFTS = words("__lshift__ __rshift__ bitwise_left_shift bitwise_right_shift")
_ENGINE = Engine(
    narrow={**dict.fromkeys(_HALVED, 32), **dict.fromkeys(_BY_DOUBLE, 53)},
    saturates=words("sum prod"),
    refused=frozenset((name, "uint8") for name in _SHIFTS),  # they come out as int8
    # torch.onnx keeps a program's numbers in 32 bits: x + 1e-12 is x.
    dtypes={"float64": "the ONNX file has constants of 32 bits"},
    wraps_indices=True,
    asserts=False,
    drops_nan=_POOLS | words("max min sign sort topk argsort atan2"),
    drops_inf=_POOLS | words("gelu pow atan2 hardswish logaddexp linalg_vector_norm norm"),
)


class OnnxRuntimeBackend:
    """The CPU execution provider."""

    name = "onnxruntime"
    needs_torch = False
    recompiles = False

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed; pip install 'evolve-runtime[onnx]'"
        return missing_exporter()

    def version(self) -> str:
        return f"{version('onnxruntime')}-r{_RECIPE}"

    def precisions(self, isa: str) -> tuple[str, ...]:
        return ("fp32", "int8")

    def supports(self, signature: Signature) -> str | None:
        return supports_numpy(signature)

    def engine(self, fusion: str) -> Engine:
        return _ENGINE

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        model = source.onnx()
        if spec.precision == "int8":
            _quantise(model, out / ONNX_FILE, saturates="vnni" not in spec.isa)
            write_signature(source.signature, out)
            return
        for file in model.parent.iterdir():
            if file.name.startswith(ONNX_FILE):
                shutil.copyfile(file, out / file.name)

    def load(self, artifact: Path, spec: PlanSpec) -> LoadedPlan:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Spinning threads would burn the cores that other workers need while this one is idle.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(artifact / ONNX_FILE), options, providers=["CPUExecutionProvider"]
        )
        plan = OnnxRuntimePlan(session)
        if spec.precision != "int8":
            return plan
        # The steps of int8 follow from the largest number of a whole tensor: rows that ran together
        # would be as coarse as the largest of them needs.
        return Microbatched(plan, Microbatches({Shape(1, 1): 1}, read_signature(artifact)))


class OnnxRuntimePlan:
    """One session. Outputs are fresh arrays on every run."""

    arrays: Literal["numpy"] = "numpy"

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [item.name for item in session.get_inputs()]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        check_run(inputs, len(self._names), is_open=self._session is not None)
        feed = dict(zip(self._names, inputs, strict=True))
        return list(self._session.run(None, feed))

    def close(self) -> None:
        self._session = None


def _quantise(model: Path, out: Path, *, saturates: bool) -> None:
    """int8 weights per channel, activations quantised as they come.

    ``saturates``: without VNNI, pairs of products are summed in 16 bits and overflow with
    8-bit weights; 7 bits are then used.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quiet = logging.getLogger()
    level = quiet.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet.setLevel(logging.ERROR)  # it advises a preprocessing that torch.onnx has done
        try:
            quantize_dynamic(
                _ready_to_quantise(model),
                str(out),
                op_types_to_quantize=list(_QUANTISED),
                per_channel=True,
                reduce_range=saturates,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
            )
        finally:
            quiet.setLevel(level)
    if not _has_integer_products(out):
        raise BuildFailed("nothing to quantise: the model has no matrix product with fixed weights")


def _ready_to_quantise(path: Path) -> Any:
    """The ONNX model, weights included, as the quantiser can take it.

    It turns every ``Gemm`` with a transposed weight into a ``MatMul`` and transposes the weight in
    its place: the shape that the exporter noted of it must not stay, and nobody else may use it.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    noted = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(noted)
    uses = Counter(name for node in graph.node for name in node.input)
    for number, node in enumerate(graph.node):
        if node.op_type == "Gemm" and uses[node.input[1]] > 1 and node.input[1] in weights:
            own = graph.initializer.add()
            own.CopyFrom(weights[node.input[1]])
            own.name = node.input[1] = f"{own.name}_of_{number}"
    return model


def _has_integer_products(path: Path) -> bool:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return any("Integer" in node.op_type or "Quant" in node.op_type for node in graph.node)
