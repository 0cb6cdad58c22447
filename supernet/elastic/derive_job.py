"""The job of deriving: a sub-network's program and its answers, stored as a capture of its own.

It cuts the sub-network out of the original's stored program, has it answer the same batches, and
writes both into the cache: plans of the sub-network are built, verified and measured as the
original's are, but against the sub-network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.capture.stored import PROGRAM, StoredBatch, StoredCapture, write_batches
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.trained import read_weights
from supernet.errors import WrongArgument
from supernet.fidelity import row_errors
from supernet.jobs.child import Say, main

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from supernet.elastic.supernet import Supernet

__all__ = ["MEASURES", "DeriveRequest", "work"]

MEASURES = ("cosine", "top1")
"""By which agreement with the original is reported."""
_KINDS = ("softmax", "none")


@dataclass(frozen=True, slots=True)
class DeriveRequest:
    """Of which stored capture, which sub-network (``SubnetSpec.to_json``), with which weights (a
    safetensors file and its digest; "": the original's), stored under which hash and key."""

    cache: str
    capture: str
    spec: Mapping[str, Any]
    weights: str
    digest: str
    graph_hash: str
    key: str


def work(request: DeriveRequest, say: Say) -> dict[str, Any]:
    """What is known of the capture that was stored, its agreement with the original among it."""
    from supernet.cache import ArtifactCache
    from supernet.capture.weights import digest_tensors
    from supernet.elastic.axes.tracing import held

    say("cutting out the sub-network", 0.0)
    capture = StoredCapture.read(Path(request.capture))
    program = _program(request, capture)
    answered = {}
    for group in capture.shapes:
        on_share = partial(say, f"answering {group}")
        answered[group] = _answered(program, capture.batches("torch", group), on_share)
    cache = ArtifactCache(request.cache)
    _store(cache, request, capture, program, answered)
    nodes = (node for node in program.graph.nodes if node.op == "call_function")
    judged = "usual" if answered["usual"] else "references"
    agreement, rows = _agreement(capture, judged, answered[judged])
    return {
        "ops": [str(node.target) for node in nodes],
        "weights_version": digest_tensors(sorted(held(program).items())),
        "agreement": agreement,
        "rows": rows,
    }


def _program(request: DeriveRequest, capture: StoredCapture) -> ExportedProgram:
    from supernet.elastic.supernet import Supernet

    net = Supernet.of_program(capture.program(), capture.signature)
    try:
        spec = _fitting(net, SubnetSpec.from_json(request.spec))
        weights = None
        if request.weights:
            weights = read_weights(Path(request.weights), request.digest, net.original)
        return net.program(spec, weights)
    except (LookupError, ValueError) as error:
        raise WrongArgument(str(error)) from error


def _fitting(net: Supernet, spec: SubnetSpec) -> SubnetSpec:
    spec = net.space.check(spec)
    kinds = {attention.kind for layer in spec.layers for attention in layer.attention}
    if other := sorted(kinds - set(_KINDS)):
        raise ValueError(f"kind must be one of {', '.join(_KINDS)} to be derived, got {other[0]!r}")
    if spec == net.full:
        raise ValueError("spec must leave something out, got the whole model")
    return spec


def _answered(
    program: ExportedProgram, batches: Sequence[StoredBatch], on_share: Callable[[float], None]
) -> list[StoredBatch]:
    """The same batches with the sub-network's answers."""
    from supernet.backends.eager import EagerPlan

    plan, made = EagerPlan(program), []
    for index, batch in enumerate(batches):
        on_share(index / len(batches))
        outputs = tuple(plan.run([leaf.clone() for leaf in batch.inputs]))
        if [tuple(o.shape) for o in outputs] != [tuple(o.shape) for o in batch.outputs]:
            raise WrongArgument("the sub-network must answer in the shapes of the original")
        made.append(replace(batch, outputs=outputs))
    return made


def _store(
    cache: Any, request: DeriveRequest, capture: StoredCapture, program: ExportedProgram,
    answered: Mapping[str, Sequence[StoredBatch]],
) -> None:  # fmt: skip
    from supernet.backends.eager import save_program
    from supernet.operators import custom_operators

    if cache.entry("captures", request.graph_hash) is None:
        with cache.adding("captures", request.graph_hash) as folder:
            save_program(program, folder / PROGRAM)
    own = {"graph_hash": request.graph_hash, "operators": custom_operators(program)}
    if cache.entry("references", request.key) is None:
        with cache.adding("references", request.key) as folder:
            write_batches(folder, {**capture.record(), **own}, answered)


def _agreement(
    capture: StoredCapture, group: str, answered: Sequence[StoredBatch]
) -> tuple[dict[str, float], int]:
    """The mean over all rows, by each measure, and how many rows there are."""
    axes = [spec.axis("rows") for spec in capture.signature.outputs]
    rows = [
        row
        for own, batch in zip(answered, capture.batches("torch", group), strict=True)
        for row in row_errors(MEASURES, own.outputs, batch.outputs, axes)
    ]
    means = {m: sum(max(0.0, 1.0 - row[m]) for row in rows) / len(rows) for m in MEASURES}
    return means, len(rows)


if __name__ == "__main__":
    main(DeriveRequest, work)
