"""The original as the teacher: its answers, and what enters and leaves its layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.distillation.batches import Batch, Corpus, real
from supernet.distillation.learning.graphs import PartGraph, dims_of_node, watching
from supernet.distillation.learning.losses import Spread, mean_over, spread_of
from supernet.elastic.supernet import Supernet

__all__ = ["LayerValues", "Teacher", "Teachers"]

_SPREAD_BATCHES = 32
_HELD_OUT_MEMORY = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class LayerValues:
    """What enters a layer of the original and leaves it on one batch, and which of it is real."""

    entering: Tensor
    leaving: Tensor
    mask: Tensor | None


class Teacher:
    """The original's answers to batches, each computed once as long as memory lasts.

    Always W₀, whatever the weights of the supernet are by now. Once `memory_mib` of answers and
    layer values are held, those of further batches are computed whenever they are asked for.
    """

    def __init__(self, net: Supernet, batches: Sequence[Batch], *, memory_mib: float = 1024.0):
        if not memory_mib >= 0:
            raise ValueError(f"memory_mib must be at least 0, got {memory_mib}")
        self._net, self._weights = net, net.original
        self.batches = tuple(batches)
        streams = {la.name: la.stream for la in net.anatomy.layers if la.stream is not None}
        self._streams = streams
        ends = (end for stream in streams.values() for end in (stream.entry, stream.exit))
        self._nodes = tuple(dict.fromkeys(ends))
        self._dims = {node: dims_of_node(net, node) for node in self._nodes}
        self._plain: PartGraph = watching(net, ())
        self._watching: PartGraph = watching(net, self._nodes)
        self._free = memory_mib * 2**20
        self._answers: dict[int, tuple[Tensor, ...]] = {}
        self._values: dict[int, dict[str, Tensor]] = {}
        self._last: tuple[int, dict[str, Tensor]] | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers whose values can be asked for."""
        return tuple(self._streams)

    def answers(self, index: int) -> tuple[Tensor, ...]:
        """The flat outputs on a batch."""
        if index in self._answers:
            return self._answers[index]
        with torch.no_grad():
            answers = self._plain(self._weights, *self.batches[index].inputs)
        if self._room(answers):
            self._answers[index] = answers
        return answers

    def layer(self, index: int, name: str) -> LayerValues:
        """What enters a layer and leaves it on a batch."""
        values = self._all_values(index)
        stream = self._streams[name]
        entering, leaving = values[stream.entry], values[stream.exit]
        lengths = self.batches[index].lengths
        mask = real(lengths, self._dims[stream.exit], leaving.shape)
        return LayerValues(entering, leaving, mask)

    def forget_layers(self) -> None:
        """Hold answers only from now on."""
        held = (t for values in self._values.values() for t in values.values())
        self._free += sum(t.numel() * t.element_size() for t in held)
        self._values.clear()
        self._last = None

    @functools.cached_property
    def spread(self) -> tuple[Spread, ...]:
        """How much each output varies, on the first batches; none for those of whole numbers."""
        found = []
        count = min(len(self.batches), _SPREAD_BATCHES)
        answers = [self.answers(index) for index in range(count)]
        for output, spec in enumerate(self._net.signature.outputs):
            if not getattr(torch, spec.dtype).is_floating_point or not spec.dims:
                found.append(Spread(0.0, 0.0))
                continue
            axis = spec.axis("length")
            single, pooled = [], []
            for given, batch in zip(answers, self.batches, strict=False):
                tensor = given[output].float()
                mask = real(batch.lengths, spec.dims, tensor.shape)
                inner = axis is not None and axis < tensor.dim() - 1
                if mask is not None and inner:
                    single.append(tensor[mask.squeeze(-1).expand(tensor.shape[:-1])])
                elif axis is None or inner:
                    single.append(tensor.reshape(-1, tensor.shape[-1]))
                else:  # vectors of different lengths have no common mean
                    single.append(tensor.reshape(-1, 1))
                if axis is not None and inner:
                    pooled.append(mean_over(tensor, mask, axis))
            found.append(Spread(spread_of(single), spread_of(pooled) if pooled else 0.0))
        return tuple(found)

    def _all_values(self, index: int) -> dict[str, Tensor]:
        if index in self._values:
            return self._values[index]
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        with torch.no_grad():
            given = self._watching(self._weights, *self.batches[index].inputs)
        values = dict(zip(self._nodes, given[len(given) - len(self._nodes) :], strict=True))
        self._last = index, values
        if self._room(tuple(values.values())):
            self._values[index] = values
        return values

    def _room(self, tensors: Sequence[Tensor]) -> bool:
        size = sum(t.numel() * t.element_size() for t in tensors)
        if size > self._free:
            return False
        self._free -= size
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Teachers:
    """The original on both parts of a corpus: made once, they serve several distillations."""

    training: Teacher
    held_out: Teacher

    @staticmethod
    def of(net: Supernet, corpus: Corpus, memory_mib: float = 1024.0) -> Teachers:
        """With so much memory between them."""
        apart = memory_mib * _HELD_OUT_MEMORY
        return Teachers(
            Teacher(net, corpus.training, memory_mib=memory_mib - apart),
            Teacher(net, corpus.held_out, memory_mib=apart),
        )
