"""Find out by experiment which dimensions of a model's inputs are free.

A first look, before there is a graph: rows that depend on each other mostly show it at once. What
then may be done with them is proven on the graph (`supernet.dataflow`), or, where that is not to be
had, tried by harder experiments (`supernet.experiments.experiments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.capture.probe import Probe, agree
from supernet.errors import Uncapturable
from supernet.signature import Dim

__all__ = [
    "Axes",
    "check_constants",
    "crop",
    "infer_axes",
    "output_dims",
    "pad",
    "resize",
    "vary",
]


_SCALES = (1.0, 0.7, -0.4)


@dataclass(frozen=True, slots=True)
class Axes:
    """The dims of each input, and why fewer are free than the examples suggest (or "")."""

    dims: tuple[tuple[Dim, ...], ...]
    batchable: bool
    note: str = ""

    def rows(self, leaves: Sequence[Tensor]) -> int:
        """Rows in these inputs; 1 where the model has no rows dimension."""
        return self._size(leaves, "rows")

    def length(self, leaves: Sequence[Tensor]) -> int:
        """Length of these inputs; 1 where the model has no length dimension."""
        return self._size(leaves, "length")

    def _size(self, leaves: Sequence[Tensor], which: Dim) -> int:
        for leaf, dims in zip(leaves, self.dims, strict=True):
            if which in dims:
                return leaf.shape[dims.index(which)]
        return 1

    @property
    def has_length(self) -> bool:
        return any("length" in dims for dims in self.dims)

    def fixed(self, leaves: Sequence[Tensor], *which: Dim) -> Axes:
        """The same with the dims called ``which`` fixed at the sizes they have in ``leaves``."""
        dims = tuple(
            tuple(size if dim in which else dim for dim, size in zip(d, leaf.shape, strict=True))
            for d, leaf in zip(self.dims, leaves, strict=True)
        )
        return Axes(dims, self.batchable and "rows" not in which, self.note)


def infer_axes(
    probe: Probe, examples: Sequence[Sequence[Tensor]], *, batchable: bool = True
) -> Axes:
    """Which dims are rows and which length, from how the examples differ.

    Rows: dim 0 where all inputs share it and stacked rows answer as they do alone; none unless
    ``batchable``. Length: the other dims that vary from example to example, if they all vary
    together.
    """
    batchable = batchable and _shares_rows(examples) and _rows_independent(probe, examples[0])
    dims: list[list[Dim]] = [list(leaf.shape) for leaf in examples[0]]
    varying: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for index, leaf in enumerate(examples[0]):
        if batchable:
            dims[index][0] = "rows"
        for dim in range(1 if batchable else 0, leaf.ndim):
            sizes = tuple(example[index].shape[dim] for example in examples)
            if len(set(sizes)) > 1:
                varying.setdefault(sizes, []).append((index, dim))
    note = "" if batchable else "rows of a batch depend on each other, so requests run singly"
    if len(varying) > 1:
        note = f"{note}; " * bool(note) + (
            f"{len(varying)} groups of dimensions vary independently in the examples; "
            "only one length is supported, so each keeps the size of the first example"
        )
    for group in varying.values() if len(varying) == 1 else ():
        for index, dim in group:
            dims[index][dim] = "length"
    return Axes(tuple(tuple(d) for d in dims), batchable, note)


def _shares_rows(examples: Sequence[Sequence[Tensor]]) -> bool:
    return all(
        all(leaf.ndim > 0 for leaf in example) and len({leaf.shape[0] for leaf in example}) == 1
        for example in examples
    )


def _rows_independent(probe: Probe, leaves: Sequence[Tensor]) -> bool:
    """Whether stacking different contents changes no row's answer (and rows come out first)."""
    try:
        parts = [list(leaves), _accepted(probe, leaves, seed=1), _accepted(probe, leaves, seed=2)]
        alone = [probe.answer(part) for part in parts]
        stacked, structure = probe.answer([torch.cat(same) for same in zip(*parts, strict=True)])
        first, _ = probe.answer([leaf[:1] for leaf in leaves])
    except Exception:  # a model that cannot take more rows, or not these
        return False
    if any(found != structure for _, found in alone):
        return False
    rows = leaves[0].shape[0]
    for index, together in enumerate(stacked):
        apart = [outputs[index] for outputs, _ in alone]
        dim = _rows_dim(together, apart, rows)
        if dim is not None:
            own = apart[0].narrow(dim, 0, 1)
            if not agree([together], [torch.cat(apart, dim)]) or not agree([own], [first[index]]):
                return False
        elif not all(agree([together], [one]) for one in (*apart, first[index])):
            return False
    return True


def _rows_dim(together: Tensor, apart: Sequence[Tensor], rows: int) -> int | None:
    """The one dim of an output that grew with the rows (the second for a recurrent state)."""
    if any(one.ndim != together.ndim for one in apart):
        return None
    grown = [
        dim
        for dim in range(together.ndim)
        if together.shape[dim] == rows * len(apart) and all(a.shape[dim] == rows for a in apart)
    ]
    return grown[0] if len(grown) == 1 else None


def _accepted(probe: Probe, leaves: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Varied contents, the boldest kind that the model takes."""
    for boldness in (2, 1):
        varied = vary(leaves, seed, boldness=boldness)
        try:
            probe.answer(varied)
        except Exception:  # e.g. a 0 where the model needs a positive count
            continue
        return varied
    return vary(leaves, seed, boldness=0)


def check_constants(probe: Probe, leaves: Sequence[Tensor]) -> None:
    """``Uncapturable`` if numbers in the result follow the input: a plan would repeat the first.

    (``x.mean().item()`` among the results is a plain float, which no tensor program returns.)
    """
    for seed in (1, 2):
        try:
            varied = probe.answer(_accepted(probe, leaves, seed))
        except Exception:  # contents that the model refuses prove nothing
            continue
        if varied[1] != probe.structure:
            raise Uncapturable("the structure or the constants of the result vary with the input")


def vary(leaves: Sequence[Tensor], seed: int, boldness: int = 1) -> list[Tensor]:
    """Other contents of the same shapes that the model should take as gladly.

    Floats are shuffled and scaled (shuffled only, a maximum over the batch would look
    independent of the other rows), and at ``boldness`` 2 may change sign. Integers and booleans
    are kept (0), drawn again from the values present (1: ids stay in the vocabulary, masks
    stay masks), or from these and 0 and 1 (2).
    """
    rng = torch.Generator().manual_seed(seed)
    scale = _SCALES[seed % len(_SCALES)]
    varied = []
    for leaf in leaves:
        flat = leaf.detach().reshape(-1).cpu()
        if leaf.is_floating_point() or leaf.is_complex():
            flat = flat[torch.randperm(flat.numel(), generator=rng)]
            flat = flat * (scale if boldness == 2 else abs(scale))
        elif boldness and flat.numel():
            pool = torch.cat([flat, flat.new_tensor([0, 1])]) if boldness == 2 else flat
            flat = pool[torch.randint(pool.numel(), flat.shape, generator=rng)]
        varied.append(flat.reshape(leaf.shape).to(leaf.dtype).to(leaf.device))
    return varied


def resize(leaves: Sequence[Tensor], axes: Axes, rows: int, length: int) -> list[Tensor]:
    """These inputs repeated or cut to so many rows of that length, without any padding."""
    sizes = {"rows": rows, "length": length}
    resized = []
    for leaf, dims in zip(leaves, axes.dims, strict=True):
        for dim, kind in enumerate(dims):
            if isinstance(kind, str):
                index = torch.arange(sizes[kind], device=leaf.device) % leaf.shape[dim]
                leaf = leaf.index_select(dim, index)
        resized.append(leaf.contiguous())
    return resized


def pad(leaves: Sequence[Tensor], axes: Axes, length: int) -> list[Tensor]:
    """These inputs with every length dim zero-padded at its end."""
    padded = []
    for leaf, dims in zip(leaves, axes.dims, strict=True):
        shape = [
            length if kind == "length" else size
            for kind, size in zip(dims, leaf.shape, strict=True)
        ]
        room = leaf.new_zeros(shape)
        room[tuple(slice(0, size) for size in leaf.shape)] = leaf
        padded.append(room)
    return padded


def crop(output: Tensor, dims: Sequence[Dim], row: slice, length: int) -> Tensor:
    """The part of a batch's output that belongs to ``row``, at its own length."""
    cut = {"rows": row, "length": slice(0, length)}
    return output[tuple(cut[dim] if dim in cut else slice(None) for dim in dims)]


def output_dims(
    axes: Axes, runs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]
) -> tuple[tuple[Dim, ...], ...]:
    """The dims of each output, from (inputs, outputs) of several sizes."""
    found: list[tuple[Dim, ...]] = []
    for index, sample in enumerate(runs[0][1]):
        shapes = [outputs[index].shape for _, outputs in runs]
        if any(len(shape) != sample.ndim for shape in shapes):
            raise Uncapturable(f"output {index} changes its number of dimensions with the input")
        rows = [axes.rows(inputs) for inputs, _ in runs]
        lengths = [axes.length(inputs) for inputs, _ in runs]
        dims: list[Dim] = []
        for dim in range(sample.ndim):
            sizes = [shape[dim] for shape in shapes]
            if axes.batchable and "rows" not in dims and sizes == rows and len(set(rows)) > 1:
                dims.append("rows")
            elif len(set(sizes)) == 1:
                dims.append(sizes[0])
            else:
                dims.append("length" if sizes == lengths else "any")
        found.append(tuple(dims))
    return tuple(found)
