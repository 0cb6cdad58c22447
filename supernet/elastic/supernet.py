"""The supernet of a captured model: every sub-network of it, from one set of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, fx
from torch.export import ExportedProgram

from profiler.shapes import Shape
from supernet.backends.eager import load_program, save_program
from supernet.capture.captured import Capture
from supernet.capture.functional import functional
from supernet.capture.probe import agree
from supernet.elastic.anatomy import Anatomy, Refusal, find
from supernet.elastic.attention.attentions import Attentions, Core, find_cores
from supernet.elastic.axes.tracing import held, identity
from supernet.elastic.cutting.narrowing import SOFTMAX, Narrowed, Selection, narrow, select
from supernet.elastic.cutting.programs import assemble, module_of, products
from supernet.elastic.cutting.reordering import reorder
from supernet.elastic.extracted import Subnet
from supernet.elastic.importance import Importance, measure
from supernet.elastic.module import Elastic
from supernet.elastic.space import Space, SpaceConfig
from supernet.elastic.subnet import SubnetSpec
from supernet.errors import Uncapturable
from supernet.operators import custom_operators, define
from supernet.signature import Signature

__all__ = ["Cost", "Supernet"]

_PROGRAM, _WEIGHTS, _RECORD = "program.pt2", "weights.safetensors", "supernet.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a sub-network: numbers in its parameters and buffers, their bytes, and the arithmetic of
    one batch in products and convolutions, a multiply and an add counted apart."""

    parameters: int
    weight_bytes: int
    flops: int


@dataclass(frozen=True, slots=True, eq=False)
class Supernet:
    """A captured model, and what can be left out of it.

    The original's weights (W₀) are shared with the user's module and never written; the full spec
    always takes those. `weights` (W₁) are what all other sub-networks take their part of: the
    original's until they are put in order or trained.

    >>> import torch
    >>> from supernet.capture.subject import capture
    >>> layers = torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    >>> learned = capture(torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 8),))
    >>> net = Supernet.of(learned)
    >>> [(gene.name, gene.choices) for gene in net.space.genes]
    [('0.width', (0, 16, 32, 48, 64))]
    >>> small = net.module(net.space.spec({"0.width": 16}))
    >>> small(torch.zeros(3, 8))[0].shape, net.full == net.space.full
    (torch.Size([3, 4]), True)
    """

    anatomy: Anatomy
    signature: Signature
    space: Space
    weights: Mapping[str, Tensor]
    attentions: Attentions = SOFTMAX

    @staticmethod
    def of(capture: Capture, config: SpaceConfig | None = None) -> Supernet:
        """The supernet of a capture; `Uncapturable` where it holds no program.

        What cannot be made smaller is in ``refused``; a model without any such place has a space
        with one sub-network, itself.
        """
        if capture.program is None:
            raise Uncapturable(f"there is no program to cut: {capture.reason or 'not exported'}")
        batches = [reference.inputs for reference in capture.references]
        return Supernet.of_program(capture.program, capture.signature, config, batches)

    @staticmethod
    def of_program(
        program: ExportedProgram,
        signature: Signature,
        config: SpaceConfig | None = None,
        batches: Sequence[Sequence[Tensor]] = (),
    ) -> Supernet:
        """The supernet of a captured model's program. `batches` of flat inputs are asked for where
        other kinds of attention are on offer: those found are tried on them."""
        anatomy = find(functional(program))
        config = config or SpaceConfig()
        attentions = Attentions()
        if config.attention:
            found = find_cores(anatomy, batches)
            attentions = Attentions(*found, config.window, config.sinks)
        return _make(anatomy, signature, config, attentions)

    @property
    def full(self) -> SubnetSpec:
        """The original."""
        return self.space.full

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What stays as it is, and why."""
        kinds = self.attentions.refused.items()
        more = (Refusal(place, f"its attention stays softmax: {why}") for place, why in kinds)
        return (*self.anatomy.refused, *more)

    @property
    def original(self) -> dict[str, Tensor]:
        """The original's weights, by name: those of the user's module, not to be written to."""
        return held(self.anatomy.trace.program)

    def importance(self, batches: Sequence[Sequence[Tensor]]) -> Importance:
        """What each unit and layer adds, on batches of flat inputs."""
        return measure(self.anatomy, self.weights, batches)

    def reordered(self, batches: Sequence[Sequence[Tensor]]) -> Supernet:
        """The same with the most important units first, so that smaller specs keep those.

        `batches` are flat inputs such as the model will see. Checks that the whole still answers
        them as before.
        """
        orders = self.importance(batches).orders()
        changed = self.with_weights(reorder(self.anatomy, self.weights, orders, self.attentions))
        before, after = self._whole(self.weights), self._whole(changed.weights)
        for batch in batches[:1]:
            if not agree(after(*batch), before(*batch)):
                raise ArithmeticError("the model answers otherwise once its units are reordered")
        return changed

    def with_weights(self, weights: Mapping[str, Tensor]) -> Supernet:
        """The same with other weights for its sub-networks, by name and of the full size."""
        for name, own in self.weights.items():
            if name not in weights or weights[name].shape != own.shape:
                got = tuple(weights[name].shape) if name in weights else "none"
                raise ValueError(f"the weight {name!r} must be of {tuple(own.shape)}, got {got}")
        return replace(self, weights={name: weights[name].detach() for name in self.weights})

    def elastic(self) -> Elastic:
        """A module that trains all sub-networks in one set of weights, a copy of these."""
        return Elastic(self.anatomy, self.space, self.weights, self.attentions)

    def program(
        self, spec: SubnetSpec, weights: Mapping[str, Tensor] | None = None
    ) -> ExportedProgram:
        """A sub-network as an exported program: called as the original's is.

        `weights`, by name, take the place of these: each of the full size, of which it takes its
        part, or of the size that the sub-network has it in.
        """
        narrowed, weights = self._taken(spec, weights)
        return assemble(self.anatomy.trace.program, narrowed, weights)

    def module(
        self, spec: SubnetSpec, weights: Mapping[str, Tensor] | None = None
    ) -> fx.GraphModule:
        """A sub-network as a plain module of flat tensors; `weights` as for a program."""
        narrowed, weights = self._taken(spec, weights)
        return module_of(self.anatomy.trace.program, narrowed, weights)

    def extract(self, spec: SubnetSpec, weights: Mapping[str, Tensor] | None = None) -> Subnet:
        """A sub-network on its own, to be saved and read back; `weights` as for a program."""
        operators = custom_operators(self.anatomy.trace.program)
        module = self.module(spec, weights)
        return Subnet(self.space.check(spec), self.signature, module, operators)

    def cost(self, spec: SubnetSpec, shape: Shape) -> Cost:
        """What a sub-network holds, and computes for one batch of this shape."""
        narrowed, weights = self._taken(spec)
        own = {identity(weights[name]): weights[name] for name in narrowed.names.values()}.values()
        program = self.anatomy.trace.program
        return Cost(
            sum(weight.numel() for weight in own),
            sum(weight.numel() * weight.element_size() for weight in own),
            products(program, narrowed, weights, self.signature.inputs, shape),
        )

    def save(self, folder: Path) -> None:
        """Write all of it into a folder: the program with W₀, and W₁ where that differs."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        program = self.anatomy.trace.program
        save_program(program, folder / _PROGRAM)
        original = self.original
        moved = {
            name: weight
            for name, weight in self.weights.items()
            if name not in original or not _equal(weight, original[name])
        }
        save_file({n: w.cpu().contiguous().clone() for n, w in moved.items()}, folder / _WEIGHTS)
        record = {
            "v": _SCHEMA,
            "signature": self.signature.to_json(),
            "config": self.space.config.to_json(),
            "operators": custom_operators(program),
            "cores": [core.to_json() for core in self.attentions.cores.values()],
            "refused": dict(self.attentions.refused),
        }
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Supernet:
        """What ``save`` wrote; needs no class of the user's model."""
        from safetensors.torch import load_file

        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record.get("v") != _SCHEMA:
            raise ValueError(f"the schema of {_RECORD} must be {_SCHEMA}, got {record.get('v')!r}")
        define(record["operators"])
        config = SpaceConfig.from_json(record["config"])
        cores = {core["place"]: Core(**core) for core in record["cores"]}
        attentions = Attentions(cores, record["refused"], config.window, config.sinks)
        anatomy = find(load_program(folder / _PROGRAM))
        signature = Signature.from_json(record["signature"])
        net = _make(anatomy, signature, config, attentions)
        return net.with_weights({**net.weights, **load_file(folder / _WEIGHTS)})

    def _taken(
        self, spec: SubnetSpec, given: Mapping[str, Tensor] | None = None
    ) -> tuple[Narrowed, dict[str, Tensor]]:
        """The graph of a sub-network, and its parts of the weights."""
        spec = self.space.check(spec)
        narrowed = narrow(self.anatomy, spec, self.attentions)
        weights = self.original if spec == self.full else self.weights
        taken = {}
        for name in narrowed.names.values():
            chosen = narrowed.selections.get(name, ())
            taken[name] = part = select(weights[name], chosen)
            if given is not None and name in given:
                taken[name] = _part(name, given[name], weights[name], part, chosen)
        return narrowed, taken

    def _whole(self, weights: Mapping[str, Tensor]) -> fx.GraphModule:
        return module_of(self.anatomy.trace.program, narrow(self.anatomy, self.full), weights)


def _make(
    anatomy: Anatomy, signature: Signature, config: SpaceConfig, attentions: Attentions
) -> Supernet:
    space = Space.of(anatomy, config, attentions.cores)
    weights = held(anatomy.trace.program) | attentions.identity_maps(anatomy.trace)
    return Supernet(anatomy, signature, space, weights, attentions)


def _part(
    name: str, given: Tensor, whole: Tensor, part: Tensor, chosen: Sequence[Selection]
) -> Tensor:
    if given.shape == whole.shape:
        return select(given, chosen)
    if given.shape != part.shape:
        sizes = " or ".join(str(tuple(one.shape)) for one in (whole, part))
        raise ValueError(f"the weight {name!r} must be of {sizes}, got {tuple(given.shape)}")
    return given


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(a.eq(b).all())
