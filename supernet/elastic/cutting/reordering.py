"""The same model with its units in another order, the best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernet.elastic.anatomy import Anatomy
from supernet.elastic.attention.attentions import Attentions, map_names
from supernet.elastic.axes.axes import Axis, units

__all__ = ["reorder"]

SOFTMAX = Attentions()


def reorder(
    anatomy: Anatomy,
    weights: Mapping[str, Tensor],
    orders: Sequence[npt.NDArray[np.int64]],
    attentions: Attentions = SOFTMAX,
) -> dict[str, Tensor]:
    """Weights that compute the same, the units of every place in the order given for it.

    Of each place's weights the rows that make a unit and the columns that sum over it move
    together. What is not moved is not copied.
    """
    moved = dict(weights)
    trace = anatomy.trace
    maps = attentions.maps(trace)
    for place, order in zip(anatomy.places, orders, strict=True):
        if sorted(order.tolist()) != list(range(place.size)):
            raise ValueError(f"the order of {place.name!r} must name each of its units once")
        along = [(name, dim, trace.of(trace.weights[name])[dim]) for name, dim in place.weights]
        along += [(n, 0, axes) for n, axes in maps.items() if n in map_names(place.name)]
        for name, dim, axes in along:
            entries = torch.from_numpy(_entries(axes, place.axis, order))
            moved[name] = moved[name].index_select(dim, entries.to(moved[name].device))
    return moved


def _entries(
    axes: Sequence[Axis], axis: Axis, order: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Which entry of a dim comes to each place of it."""
    own = units(axes, axis.root())
    entries = np.arange(len(own), dtype=np.int64)
    for place, unit in enumerate(order):
        entries[own == place] = np.flatnonzero(own == unit)
    return entries
