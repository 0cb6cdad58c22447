"""The one door to TorchInductor for pieces of a program: FX graphs in, one package out.

A piece takes its weights as inputs, so that one compiled piece serves every layer of its form.
Inductor's own lowering of a packed product insists on a weight that is a constant of the graph;
a stand-in operator, which exists while a piece is compiled only, lowers to the same kernel
(torch/_inductor/mkldnn_ir.py, `LinearUnary`) with a weight from anywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from supernet.backends.packages import unpack
from supernet.fusion.lowering.compiled_package import PACKAGE

__all__ = ["compile_pieces", "packed_product"]

_OPTIONS: dict[str, Any] = {
    "aot_inductor.package": True,
    # Ask for the number of threads at run time: one artifact serves all settings.
    "cpp.dynamic_threads": True,
    "compile_threads": 1,
    # For so few pieces, headers compiled first cost more than they save (7 s each, and every
    # build has its own folder); so do six trial programs about the CPU's instructions (8 s).
    "aot_inductor.precompile_headers": False,
    "cpp.vec_isa_ok": True,
}


@cache
def packed_product() -> Any:
    """The stand-in: ``(x, packed, bias, activation, scalars, algorithm) -> y``."""
    library: Any = torch.library.Library("evolve", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(
        "packed_product(Tensor x, Tensor packed, Tensor? bias, str activation, "
        "float[] scalars, str algorithm) -> Tensor"
    )
    torch.library.register_fake("evolve::packed_product", _shape, lib=library)
    _KEPT.append(library)
    return torch.ops.evolve.packed_product.default


_KEPT: list[Any] = []  # an operator is gone with its library


def _shape(
    x: Tensor, packed: Tensor, bias: Any, activation: str, scalars: Any, algorithm: str
) -> Tensor:
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


@cache
def _taught() -> None:
    """Tell Inductor what the stand-in stands for."""
    from torch._inductor.ir import TensorBox
    from torch._inductor.lowering import register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary

    def lowered(*arguments: Any) -> Any:
        return TensorBox.create(LinearUnary.create(*arguments))  # type: ignore[no-untyped-call]

    register_lowering(packed_product(), type_promotion_kind=None)(lowered)


def compile_pieces(pieces: Mapping[str, GraphModule], folder: Path) -> None:
    """Compile each piece (placeholders with fakes under ``meta["val"]``) into one package.

    Whatever Inductor or the C++ compiler raises is passed on: the next build may fare better.
    """
    from torch._inductor import aot_compile
    from torch._inductor.package.package import package_aoti

    _taught()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        files = {
            name: aot_compile(piece, _fakes(piece), options=_OPTIONS)
            for name, piece in pieces.items()
        }
        package_aoti(str(folder / PACKAGE), files)  # type: ignore[arg-type]
    unpack(folder / PACKAGE, next(iter(pieces)))


def _fakes(piece: GraphModule) -> tuple[Any, ...]:
    return tuple(node.meta["val"] for node in piece.graph.find_nodes(op="placeholder"))
