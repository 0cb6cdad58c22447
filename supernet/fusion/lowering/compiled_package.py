"""Compiled pieces of a program as a file: how a worker loads and calls them.

Needs none of Inductor's Python, which takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from torch import Tensor, nn

from supernet.backends.packages import load_package

__all__ = ["PACKAGE", "CompiledPiece", "load_pieces"]

PACKAGE = "pieces.pt2"


class CompiledPiece(nn.Module):
    """One compiled piece: its tensors in, its tensors out, weights among what goes in."""

    def __init__(self, call: Callable[[list[Tensor]], list[Tensor]]) -> None:
        super().__init__()
        self._call = call

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        return self._call(list(tensors))  # the list is emptied by the call


def load_pieces(folder: Path, names: Collection[str]) -> dict[str, CompiledPiece]:
    """The pieces of these names from ``folder``'s package.

    Raises `RuntimeError` where the package is damaged or holds no such piece.
    """
    return {name: CompiledPiece(load_package(folder / PACKAGE, name)) for name in names}
