"""Which plans are worth building for a captured model on this machine, best first."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from supernet.backends.base import BACKENDS, backend
from supernet.plans import PlanSpec

if TYPE_CHECKING:
    from profiler.fingerprint import DeviceFingerprint
    from supernet.capture import Capture
    from supernet.fidelity import Limit

__all__ = ["propose", "unavailable"]

# Quick to build and mostly faster than torch first; what takes a compiler last.
_ORDER = (
    ("fused", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("fused", "mixed"),
    ("onnxruntime", "int8"),
    ("openvino", "bf16"),
    ("aoti", "fp32"),
    ("eager", "fp32"),
)
# Each pays by itself on the models that were measured, and they exclude one another nowhere.
FUSION = ("qkv", "attention", "activation", "residual", "conv", "norm", "pointwise")


def propose(
    capture: Capture,
    fingerprint: DeviceFingerprint,
    backends: Collection[str] | None = None,
    precisions: Collection[str] = ("fp32", "mixed", "int8", "bf16"),
    threads: int = 1,
    limit: Limit | None = None,
) -> tuple[PlanSpec, ...]:
    """Specs in the order worth building; empty where there is no program to build from.

    ``limit`` is what a mixed precision may use up; without one, none is proposed.

    ``backends`` None means every one that is available, except eager, which runs the same
    kernels as the original; a backend that is named here but cannot be used is left out.
    """
    if capture.program is None:
        return ()
    from profiler.fingerprint import isa_key

    isa = isa_key(fingerprint)
    wanted = set(BACKENDS) - {"eager"} if backends is None else set(backends)
    if unknown := wanted - set(BACKENDS):
        raise ValueError(f"backends must be among {sorted(BACKENDS)}, got {sorted(unknown)}")
    return tuple(
        _spec(capture, name, precision, threads, isa, limit)
        for name, precision in _ORDER
        if name in wanted
        and precision in precisions
        and (precision != "mixed" or limit is not None)
        and unavailable(name, capture) is None
        and precision in backend(name).precisions(isa)
    )


def unavailable(name: str, capture: Capture) -> str | None:
    """Why backend ``name`` cannot run this model here, in one line; None if it can."""
    chosen = backend(name)
    return chosen.unavailable() or chosen.supports(capture.signature)


def _spec(
    capture: Capture, name: str, precision: str, threads: int, isa: str, limit: Limit | None
) -> PlanSpec:
    import torch

    return PlanSpec(
        graph_hash=capture.graph_hash,
        backend=name,
        precision=precision,
        threads=threads,
        weights_version=capture.weights_version,
        torch_version=str(torch.__version__),
        backend_version=backend(name).version(),
        isa=isa,
        fusion="+".join(FUSION) if name == "fused" else "",
        limit=str(limit) if precision == "mixed" else "",
    )
