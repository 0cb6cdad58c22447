"""A compiled program on a GPU as CUDA graphs, one for each shape of batch that comes again.

The host then launches one graph where it launched every kernel, which is most of a small batch's
time. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["MOST", "CudaGraphs"]

MOST = 64
"""Graphs kept at once; the one not used for longest goes first."""
_WARM_RUNS = 3  # before a capture: libraries take their workspaces then

Call: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
_Shapes: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]

    def replay(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return [output.clone() for output in self.outputs]  # the next replay writes over these


class CudaGraphs:
    """``call`` on tensors of one CUDA device, captured when a shape comes a second time.

    A program that cannot be captured (it asks the GPU for a number, say) is called as it is. The
    answers are complete on return. One call at a time; other threads may use the device.
    """

    def __init__(self, call: Call, device: str) -> None:
        self._call, self._device = call, torch.device(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: OrderedDict[_Shapes, _Captured | None] = OrderedDict()
        self.why_not: str | None = None
        """Why it cannot be captured, once that was seen."""

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        shapes = tuple(tuple(leaf.shape) for leaf in inputs)
        with torch.cuda.device(self._device), torch.no_grad():
            captured = self._seen.get(shapes)
            if captured is None and shapes in self._seen and self.why_not is None:
                captured = self._capture(inputs)
            self._keep(shapes, captured)
            answers = self._call(list(inputs)) if captured is None else captured.replay(inputs)
            torch.cuda.current_stream().synchronize()
        return answers

    def _keep(self, shapes: _Shapes, captured: _Captured | None) -> None:
        self._seen[shapes] = captured
        self._seen.move_to_end(shapes)
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)

    def _capture(self, inputs: Sequence[Tensor]) -> _Captured | None:
        mine = [leaf.clone() for leaf in inputs]
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_RUNS):
                self._call(list(mine))
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do on the device meanwhile is none of this graph's.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = self._call(list(mine))
        except RuntimeError as error:
            self.why_not = str(error).splitlines()[0]
            return None
        return _Captured(graph, mine, list(outputs))
