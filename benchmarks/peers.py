"""The engines under comparison, each as a person would set it up, at its best for one shape.

An engine is opened once per model (``engine``) and then made ready for each batch shape; what
comes of that runs the batch and gives its outputs. Call them in a process of their own
(``benchmarks.turns``): compilers keep settings for the whole process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._inductor import config as inductor_config

from benchmarks.models import SUBJECTS
from supernet.backends.base import load_plan
from supernet.microbatches import Microbatches
from supernet.plans import PlanSpec

__all__ = ["PEERS", "Job", "Open", "Run", "engine"]

_COMPILED: Mapping[str, tuple[str | None, bool]] = {  # (mode, freezing)
    "compile": (None, False),
    "compile-frozen": (None, True),
    "compile-tuned": ("max-autotune-no-cudagraphs", False),
    # On CPUs inductor tunes matrix products only where their weights are frozen.
    "compile-tuned-frozen": ("max-autotune-no-cudagraphs", True),
}
PEERS = ("eager", *_COMPILED, "onnxruntime", "openvino", "openvino-static")


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine's process needs to know. ``peer`` is of ``PEERS``, or "plan".

    ``names`` are the model's tensor arguments in the order of the captured program; ``answers``
    a folder for eager's outputs; ``metric`` judges outputs beside relative L2.
    """

    peer: str
    model: str
    metric: str
    threads: int
    names: tuple[str, ...]
    answers: Path
    onnx: Path
    spec: PlanSpec | None = None
    artifact: Path | None = None
    microbatches: Microbatches | None = None


Run = Callable[[], Any]
Open = Callable[[Mapping[str, Any]], Run]
"""From keyword arguments (numpy arrays and constants) to what runs them."""


def engine(job: Job) -> Open:
    """The engine with its model loaded."""
    return _OPENERS.get(job.peer, _torch)(job)


def _torch(job: Job) -> Open:
    """The model itself, or compiled anew for each shape."""
    model = SUBJECTS[job.model].load()

    def make(inputs: Mapping[str, Any]) -> Run:
        call = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in inputs.items()
        }
        if job.peer == "eager":
            return lambda: model(**call)
        mode, freezing = _COMPILED[job.peer]
        torch._dynamo.reset()  # all shapes in one would meet the limit of recompilations
        compiled = torch.compile(model, mode=mode, dynamic=False)
        with inductor_config.patch(freezing=freezing, autotune_num_choices_displayed=0):
            compiled(**call)
        return lambda: compiled(**call)

    return make


def _onnxruntime(job: Job) -> Open:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(
        str(job.onnx), options, providers=["CPUExecutionProvider"]
    )
    theirs = [given.name for given in session.get_inputs()]

    def make(inputs: Mapping[str, Any]) -> Run:
        feed = {name: inputs[ours] for name, ours in zip(theirs, job.names, strict=True)}
        return lambda: list(session.run(None, feed))

    return make


def _openvino(job: Job) -> Open:
    """One model for every shape, or "openvino-static": compiled anew for each."""
    import openvino

    core = openvino.Core()
    config = {
        "INFERENCE_PRECISION_HINT": "f32",  # its default silently computes in bf16
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # or whatever else runs on that core decides
    }
    model = core.read_model(str(job.onnx))
    fixed = job.peer == "openvino-static"
    whole = None if fixed else core.compile_model(model, "CPU", config)

    def make(inputs: Mapping[str, Any]) -> Run:
        arrays = [inputs[name] for name in job.names]
        if fixed:
            model.reshape(
                {port.any_name: list(a.shape) for port, a in zip(model.inputs, arrays, strict=True)}
            )
        compiled = core.compile_model(model, "CPU", config) if whole is None else whole
        request, count = compiled.create_infer_request(), len(compiled.outputs)

        def run() -> list[Any]:
            outputs = request.infer(arrays, share_inputs=True, share_outputs=True)
            return [outputs[index] for index in range(count)]

        return run

    return make


def _plan(job: Job) -> Open:
    if job.artifact is None or job.spec is None:
        raise ValueError("a plan's job must have a spec and an artifact, got none")
    plan = load_plan(job.artifact, job.spec, job.microbatches)

    def make(inputs: Mapping[str, Any]) -> Run:
        arrays = [inputs[name] for name in job.names]
        leaves = [torch.from_numpy(a) for a in arrays] if plan.arrays == "torch" else arrays
        return lambda: plan.run(leaves)

    return make


_OPENERS: Mapping[str, Callable[[Job], Open]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "openvino-static": _openvino,
    "plan": _plan,
}
