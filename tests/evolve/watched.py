"""A service without threads: batches run at once, and the watch looks when it is told to."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evolve.data_plane.batching import split, stack
from evolve.data_plane.original import Original
from evolve.data_plane.request_queue import Request
from evolve.watch.judge import Judge, Judgement
from evolve.watch.live_agreement import LiveAgreements
from evolve.watch.live_error import LiveErrors
from evolve.watch.samples import Sample
from evolve.watch.watch import Watch, Watched
from profiler.shapes import ShapeGrid
from supernet.capture.calls.call_signature import CallForm, Example
from supernet.capture.captured import Capture
from supernet.fidelity import Limit
from supernet.plans import ORIGINAL, Plan, PlanLibrary, PlanSpec, PlanState
from supernet.signature import Signature, TensorSpec

Engine = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


def signature(
    inputs: Sequence[Sequence[Any]], outputs: Sequence[Sequence[Any]], **dtypes: str
) -> Signature:
    """Of float tensors of these dims; `x0="int64"` gives the first input another dtype."""

    def specs(kind: str, tensors: Sequence[Sequence[Any]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(f"{kind}{i}", dtypes.get(f"{kind}{i}", "float32"), tuple(dims))
            for i, dims in enumerate(tensors)
        )

    return Signature(specs("x", inputs), specs("y", outputs), batchable=True, paddable=True)


def plan(error: float = 0.0, backend: str = "staged") -> Plan:
    spec = PlanSpec("graph", backend, "fp32", 1, "weights", "torch", "1", "isa")
    return Plan(spec, PlanState.VERIFIED, error=error, artifact=Path("none"))


class Service:
    """Runs what it is given on `engine`, or on the model itself, and is watched.

    `idle` says whether the service has nothing to do; `now_s` is the clock.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        signature: Signature,
        example: Sequence[torch.Tensor],
        *,
        engine: Engine | None = None,
        error: float = 0.0,
        subnet: str = "",
        limit: Limit = Limit("relative_l2", 0.005),  # noqa: B008 (a frozen value)
        watched: Watched = Watched(),  # noqa: B008 (a frozen value)
        seed: int = 0,
    ) -> None:
        form, _ = CallForm.of(model.forward, Example(tuple(example), {}))
        captured = Capture(
            None, "made by hand", signature, ShapeGrid.covering(16), "graph", "weights", False,
            form=form,
        )  # fmt: skip
        self.original = Original(model, captured)
        self.signature, self.engine = signature, engine
        self.agreements = LiveAgreements("cosine", 0.9)
        library, staged = PlanLibrary(), replace(plan(error), subnet=subnet)
        library.put(staged)
        self.plan = ORIGINAL if engine is None else staged.key
        self.verdicts: list[Judgement] = []
        self.said: list[str] = []
        self.idle, self.now_s = True, 0.0
        self.watch = Watch(
            Judge(self.original, signature, library, LiveErrors(limit), self.agreements), watched,
            act=self._act, on_event=self.said.append, idle=lambda: self.idle,
            weights=self.original.version, clock=lambda: self.now_s, rng=random.Random(seed),
        )  # fmt: skip

    def _act(self, sample: Sample, verdict: Judgement) -> None:
        self.verdicts.append(verdict)

    def run(
        self, *calls: Sequence[torch.Tensor], length: int | None = None, elapsed_ms: float = 1.0
    ) -> list[list[torch.Tensor]]:
        """One batch of `calls`, padded to the longest or to `length`; their answers."""
        requests = [self._request(list(leaves)) for leaves in calls]
        length = max(r.length for r in requests) if length is None else length
        inputs = stack(requests, self.signature, length)
        engine = self.engine or (lambda leaves: self.original.run(leaves).leaves)
        answers = split(list(engine(inputs)), requests, self.signature, length)
        self.watch.offer(
            self.watch.sample(self.plan, requests, inputs, length, answers, elapsed_ms)
        )
        return answers

    def _request(self, leaves: list[torch.Tensor]) -> Request:
        sizes = {
            dim: size
            for leaf, spec in zip(leaves, self.signature.inputs, strict=True)
            for size, dim in zip(leaf.shape, spec.dims, strict=True)
        }
        rows, length = sizes.get("rows", 1), sizes.get("length", 1)
        return Request((), {}, leaves, rows, length, 0, 0, 0.0, 1.0, True)

    def look(self) -> list[str]:
        """Checks all that waits; what was found, by cause."""
        while self.watch.step() is not None:
            pass
        return [verdict.cause for verdict in self.verdicts]
