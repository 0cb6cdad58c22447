"""An elastic module: one set of full-size weights that all sub-networks share, for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from supernet.elastic.anatomy import Anatomy
from supernet.elastic.attention.attentions import Attentions
from supernet.elastic.axes.tracing import copied, parameters_of
from supernet.elastic.cutting.narrowing import SOFTMAX, narrow, select
from supernet.elastic.space import Space
from supernet.elastic.subnet import SubnetSpec

__all__ = ["Elastic"]

_KEPT_GRAPHS = 256


class Elastic(nn.Module):
    """``elastic(spec, *inputs)`` runs that sub-network on its part of the shared weights.

    Inputs and outputs are the signature's flat tensors. Parameters are full-size copies under the
    names of the user's model; each sub-network takes views of them, so that gradients of several
    add up in one place. It computes as the model does in evaluation: no dropout, batch norms with
    the statistics that they have.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        space: Space,
        weights: Mapping[str, Tensor],
        attentions: Attentions = SOFTMAX,
    ) -> None:
        super().__init__()
        self._anatomy, self._space, self._attentions = anatomy, space, attentions
        self._graphs: dict[SubnetSpec, tuple[fx.GraphModule, list[Any]]] = {}
        parameters = parameters_of(anatomy.trace.program) | set(attentions.maps(anatomy.trace))
        for name, weight in copied(weights, parameters).items():
            _place(self, name, weight)
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Elastic:
        """Of its own weights; what is known of the model is shared."""
        made = Elastic(self._anatomy, self._space, self.weights(), self._attentions)
        memo[id(self)] = made
        return made

    def forward(self, spec: SubnetSpec, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The sub-network's flat outputs; a `ValueError` for a spec of another model."""
        graph, wanted = self._graph(spec)
        given = iter(inputs)
        values = [
            next(given) if name is None else select(self._weight(name), selections)
            for name, selections in wanted
        ]
        return tuple(graph(*values))

    def weights(self) -> dict[str, Tensor]:
        """What the parameters and buffers are now, by name, as copies."""
        own = (*self.named_parameters(remove_duplicate=False),
               *self.named_buffers(remove_duplicate=False))  # fmt: skip
        return copied(dict(own))

    def _weight(self, name: str) -> Tensor:
        module, _, last = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(module), last)
        return found

    def _graph(self, spec: SubnetSpec) -> tuple[fx.GraphModule, list[Any]]:
        if spec not in self._graphs:
            if len(self._graphs) >= _KEPT_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            narrowed = narrow(self._anatomy, self._space.check(spec), self._attentions)
            names = [
                narrowed.names.get(n.name) for n in narrowed.graph.find_nodes(op="placeholder")
            ]
            wanted = [(name, narrowed.selections.get(name or "", ())) for name in names]
            root = self._anatomy.trace.program.graph_module
            self._graphs[spec] = fx.GraphModule(root, narrowed.graph), wanted
        return self._graphs[spec]


def _place(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a name with dots, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)
