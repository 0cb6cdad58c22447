"""Plans worth building for a captured model on this machine, best first."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from supernet.backends.base import BACKENDS, backend
from supernet.domain.engine import obstacle
from supernet.plans import COMPILED, PlanSpec

if TYPE_CHECKING:
    from profiler.fingerprint import DeviceFingerprint
    from supernet.capture.subject import Capture
    from supernet.fidelity import Limit

__all__ = ["propose", "unavailable"]

# Each pays by itself on the models that were measured, and they exclude one another nowhere.
FUSION = ("qkv", "attention", "activation", "residual", "conv", "norm", "pointwise")
_RULES = "+".join(FUSION)
# Quick to build and mostly faster than torch first; what takes a compiler last.
_ORDER = (
    ("fused", "fp32", _RULES),
    ("onnxruntime", "fp32", ""),
    ("openvino", "fp32", ""),
    ("fused", "mixed", _RULES),
    ("onnxruntime", "int8", ""),
    ("openvino", "bf16", ""),
    ("aoti", "fp32", ""),
    ("fused", "fp32", f"{_RULES}+{COMPILED}"),
    ("fused", "mixed", f"{_RULES}+{COMPILED}"),
    ("eager", "fp32", ""),
)


_DEEP, _SHALLOW = 400, 100
"""Operators from which on Inductor compiles a program faster layer by layer than as a whole, and as
fast to run: `_SHALLOW` for one thread, where our own products make up for the calls (decisions 0014
and 0018). MiniLM has 184, SmolLM2 1,200."""


def propose(
    capture: Capture,
    fingerprint: DeviceFingerprint,
    backends: Collection[str] | None = None,
    precisions: Collection[str] = ("fp32", "mixed", "int8", "bf16"),
    threads: int = 1,
    limit: Limit | None = None,
    *,
    isolated: bool = True,
) -> tuple[PlanSpec, ...]:
    """Specs in the order worth building; empty where there is no program to build from.

    ``limit`` is what a mixed precision may use up; without one, none is proposed.

    ``isolated``: whether plans run in processes of their own, which may end.

    ``backends`` None means every one that is available, except eager, which runs the same
    kernels as the original; a backend that is named here but cannot be used is left out. Fused
    plans are compiled as well where AOTInductor, which does it, is wanted and can be used; exact
    ones only of deep programs, which AOTInductor then need not take as a whole unless named.
    """
    if capture.ops is None:
        return ()
    from profiler.fingerprint import isa_key

    isa = isa_key(fingerprint)
    wanted = set(BACKENDS) - {"eager"} if backends is None else set(backends)
    if unknown := wanted - set(BACKENDS):
        raise ValueError(f"backends must be among {sorted(BACKENDS)}, got {sorted(unknown)}")
    ops = capture.ops
    compiles = "aoti" in wanted and backend("aoti").unavailable() is None
    compiles = compiles and not any("conv" in target for target in ops)  # it has no layers then
    by_layers = compiles and len(ops) > (_SHALLOW if threads == 1 else _DEEP)
    by_layers = by_layers and unavailable("fused", capture, COMPILED, isolated=isolated) is None
    if by_layers and backends is None:
        wanted.remove("aoti")
    return tuple(
        _spec(capture, name, precision, threads, isa, limit, fusion)
        for name, precision, fusion in _ORDER
        if name in wanted
        and (compiles or COMPILED not in fusion)
        and (by_layers or COMPILED not in fusion or precision != "fp32")
        and precision in precisions
        and (precision != "mixed" or limit is not None)
        and unavailable(name, capture, fusion, isolated=isolated) is None
        and precision in backend(name).precisions(isa)
    )


def unavailable(
    name: str, capture: Capture, fusion: str = "", *, isolated: bool = True
) -> str | None:
    """Why backend ``name`` cannot run this model here, or would answer otherwise than it, in one
    line; None if it can."""
    chosen = backend(name)
    return (
        chosen.unavailable()
        or chosen.supports(capture.signature)
        or obstacle(capture.domain, chosen.engine(fusion), isolated=isolated)
    )


def _spec(
    capture: Capture, name: str, precision: str, threads: int, isa: str, limit: Limit | None,
    fusion: str,
) -> PlanSpec:  # fmt: skip
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
        fusion=fusion,
        limit=str(limit) if precision == "mixed" else "",
    )
