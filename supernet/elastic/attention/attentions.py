"""Attention in a program: where queries, keys, values and the mask are, and what the mask says.

Other kinds of attention need to know of a mask which keys are padding and whether a query sees the
keys after it. That is read off the masks that the program makes of given inputs: a mask that is
neither the same for all queries nor causal, or that adds numbers to the scores, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx

from supernet.elastic.anatomy import Anatomy, Place
from supernet.elastic.axes.axes import Axes, factors, leaves
from supernet.elastic.axes.tracing import Trace, arguments, held, operator, weight_name

__all__ = ["Attentions", "Core", "find_cores", "map_names"]

# A mask that is added hides a key by a number below this; a bias is well above it.
_HIDES = -5000.0
_INERT = ("dropout", "clone", "contiguous", "detach", "to", "_to_copy")


@dataclass(frozen=True, slots=True)
class Core:
    """One softmax attention. Names are of nodes: `product` gives its result ``[B, H, L, E]``.

    `added`: whether the mask is numbers or booleans for keys that count (``"kept"``) or that do
    not (``"hidden"``). `causal`: whether a query sees only its own key and those before it.
    """

    place: str
    product: str
    query: str
    key: str
    value: str
    scale: float
    mask: str | None
    added: Literal["numbers", "kept", "hidden"]
    causal: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Attentions:
    """The attentions of a model that may be of other kinds, and of which form.

    `cores`: by place. `refused`: by place, why only softmax will do.
    """

    cores: Mapping[str, Core] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    window: int = 64
    sinks: int = 4

    def maps(self, trace: Trace) -> dict[str, Axes]:
        """The feature maps' names, each with the axes of its heads."""
        nodes = {node.name: node for node in trace.program.graph.nodes}
        found = {}
        for core in self.cores.values():
            query = nodes[core.query]
            for name in map_names(core.place):
                found[name] = trace.of(query)[1]
        return found

    def identity_maps(self, trace: Trace) -> dict[str, Tensor]:
        """Feature maps to begin with: ``[H, D, D]``, every head's the identity."""
        nodes = {node.name: node for node in trace.program.graph.nodes}
        found = {}
        for core in self.cores.values():
            query = nodes[core.query].meta["val"]
            own = torch.eye(query.shape[-1], dtype=query.dtype, device=query.device)
            for name in map_names(core.place):
                found[name] = own.repeat(query.shape[1], 1, 1)
        return found


def map_names(place: str) -> tuple[str, str]:
    """What the feature maps of a place are called among the weights: queries', keys'."""
    return f"{place}.feature_map_query", f"{place}.feature_map_key"


def find_cores(
    anatomy: Anatomy, batches: Sequence[Sequence[Tensor]]
) -> tuple[dict[str, Core], dict[str, str]]:
    """By place: its attention, or why it can only be computed as it is."""
    nodes = {node.name: node for node in anatomy.trace.program.graph.nodes}
    cores: dict[str, Core] = {}
    refused: dict[str, str] = {}
    for place in anatomy.places:
        if place.kind == "heads":
            found = _core(anatomy.trace, nodes, place)
            if isinstance(found, Core):
                cores[place.name] = found
            else:
                refused[place.name] = found
    masks = {core.mask for core in cores.values() if core.mask is not None}
    seen = {name: list[Tensor]() for name in masks}
    for batch in batches if masks else ():
        for name, mask in _values(anatomy, masks, batch):
            seen[name].append(mask)
    for name, core in list(cores.items()):
        causal = core.causal if core.mask is None else _causal(core, seen[core.mask])
        if isinstance(causal, str):
            refused[name] = causal
            del cores[name]
        else:
            cores[name] = Core(**{**asdict(core), "causal": causal})
    return cores, refused


def _core(trace: Trace, nodes: Mapping[str, fx.Node], place: Place) -> Core | str:
    product = nodes[place.attends[-1]]
    if operator(product) == "scaled_dot_product_attention" and len(place.attends) == 1:
        given = arguments(product)
        value = given["query"].meta["val"]
        scale = given["scale"] if given["scale"] is not None else value.shape[-1] ** -0.5
        mask = given["attn_mask"]
        boolean = mask is not None and mask.meta["val"].dtype is torch.bool
        found = Core(
            place.name, product.name, given["query"].name, given["key"].name,
            given["value"].name, float(scale), mask.name if mask is not None else None,
            "kept" if boolean or mask is None else "numbers", bool(given["is_causal"]),
        )  # fmt: skip
    else:
        spelled = _spelled(nodes, place)
        if isinstance(spelled, str):
            return spelled
        found = spelled
    query = nodes[found.query]
    dims = trace.of(query)
    apart = len(dims) == 4 and place.axis.root() in leaves(dims[1])
    if query.meta["val"].shape[2] != nodes[found.key].meta["val"].shape[2]:
        return "its keys are of another sequence than its queries"
    if not apart or _size(dims[1]) != place.size * place.group:
        return "its heads are not a dim of their own"
    return found


def _size(axes: Any) -> int:
    size = 1
    for axis in factors(axes):
        size *= axis.size
    return size


def _spelled(nodes: Mapping[str, fx.Node], place: Place) -> Core | str:
    """Attention as product, softmax, product."""
    if len(place.attends) != 2:
        return "its products are not two around a softmax"
    scores, product = (nodes[name] for name in place.attends)
    weights, value = product.all_input_nodes[:2]
    while operator(weights) in _INERT:
        weights = weights.all_input_nodes[0]
    if operator(weights) not in ("softmax", "_softmax") or len(product.all_input_nodes) != 2:
        return "its products are not two around a softmax"
    scale, mask, added = 1.0, None, "kept"
    node = weights.all_input_nodes[0]
    while node is not scores:
        given = arguments(node)
        name, other = operator(node), given.get("other")
        if name in ("mul", "div") and isinstance(other, (int, float)):
            scale *= other if name == "mul" else 1 / other
        elif name == "masked_fill" and mask is None and isinstance(given["value"], (int, float)):
            mask, added = given["mask"], "hidden"
        elif name == "add" and mask is None and isinstance(other, fx.Node):
            mask, added = other, "numbers"
        elif name not in _INERT:
            return f"{name} comes between its products"
        node = node.all_input_nodes[0]
    query, turned = scores.all_input_nodes[:2]
    if operator(turned) != "transpose" or len(turned.meta["val"].shape) != 4:
        return "its keys are not transposed for the product"
    moved = {d % 4 for d in (arguments(turned)["dim0"], arguments(turned)["dim1"])}
    if moved != {2, 3}:
        return "its keys are not transposed for the product"
    return Core(
        place.name, product.name, query.name, turned.all_input_nodes[0].name, value.name,
        scale, mask.name if mask is not None else None, added, False,  # type: ignore[arg-type]
    )  # fmt: skip


def _values(
    anatomy: Anatomy, names: set[str], batch: Sequence[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """What nodes of the program give for a batch of flat inputs."""
    program = anatomy.trace.program
    weights, inputs = held(program), iter(batch)
    specs = [weight_name(spec) for spec in program.graph_signature.input_specs]
    given = [next(inputs) if name is None else weights[name] for name in specs]
    found: list[tuple[str, Tensor]] = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in names:
                found.append((n.name, value))
            return value

    with torch.no_grad():
        Watch(fx.GraphModule(program.graph_module, program.graph)).run(*given)
    return iter(found)


def _causal(core: Core, masks: Sequence[Tensor]) -> bool | str:
    """Whether a mask is causal and not only of keys; why not if it is neither."""
    allowed = []
    for mask in masks:
        if mask.dim() > 4 or mask.dim() < 2:
            return "its mask does not have a dim for queries and one for keys"
        if core.added == "numbers":
            if bool((mask[mask > _HIDES] != 0).any()):
                return "its mask adds numbers to the scores"
            allowed.append(mask > _HIDES)
        else:
            allowed.append(mask if core.added == "kept" else ~mask)
    telling = [mask for mask in allowed if mask.shape[-1] > 1]
    if telling and all(torch.equal(m, m[..., :1, :].expand_as(m)) for m in telling):
        return False
    square = [mask for mask in telling if mask.shape[-1] == mask.shape[-2]]
    if telling and len(square) == len(telling) and all(map(_is_causal, square)):
        return True
    return "its mask is neither causal nor the same for every query"


def _is_causal(mask: Tensor) -> bool:
    below = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
    return torch.equal(mask, mask[..., -1:, :] & below)
