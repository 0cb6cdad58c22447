"""The job of a generation: sub-networks searched, trained and judged, tiers proposed.

Reads the model's stored capture and live inputs, writes `NAME.safetensors` of each tier proposed
into the folder `out`, and last of all what the next generation is to know into `state`: killed
anywhere before, that folder is as the generation before left it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.jobs.child import Say, main
from supernet.jobs.errors import JobRefused

if TYPE_CHECKING:
    from evolve.evolution.anchors import Engine
    from evolve.evolution.generation import Outcome
    from evolve.evolution.worth import Worth

__all__ = ["GenerationRequest", "limit_s", "work"]

NICENESS = 19
SPEEDUPS = (1.25, 1.75, 2.5)
"""What tiers are to be where no traffic says what they are worth, or none is good enough yet."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to evolve, on what, within which bounds.

    `cache`: root of the artifact cache; `graph_hash`: the original's capture in it; `references`:
    the folder of its stored batches. `inputs`: a safetensors file of ``EXAMPLE.LEAF``, each one
    request's flat input leaves; it may be one of a memory file. `state`: a folder kept between
    generations; `out`: an empty one for weights. `twin`: a folder that `Twin.save` wrote, "" where
    there was no traffic. `like`: backend, precision and threads of the original's best plan, ("",
    "", 0) for eager. `agreement` and `min_quality` as in the SLO; `budget_s` of this generation.
    """

    cache: str
    graph_hash: str
    references: str
    inputs: str
    state: str
    out: str
    twin: str
    like: tuple[str, str, int]
    agreement: str
    min_quality: float
    most_tiers: int
    budget_s: float
    seed: int


def limit_s(budget_s: float) -> float:
    """How long to let a generation of this budget run before it counts as hanging, seconds: what
    judging takes, and a machine that is busy with others, are in no budget."""
    return 3.0 * budget_s + 300.0


def work(request: GenerationRequest, say: Say) -> dict[str, Any]:
    """One generation; what it proposes, and what was measured."""
    from evolve.evolution.generation import next_generation
    from evolve.evolution.inputs import prepared, read_inputs
    from evolve.evolution.memory import recalled
    from evolve.evolution.settings import GenerationConfig
    from supernet.building.source import StoredSource
    from supernet.cache import ArtifactCache
    from supernet.capture.stored import StoredCapture
    from supernet.distillation.settings import Hooks
    from supernet.elastic.supernet import Supernet

    say("reading the model and its inputs", 0.0)
    clock = _clock()
    began_s = clock()
    capture = StoredCapture.read(Path(request.references))
    if capture.graph_hash != request.graph_hash:
        raise JobRefused(f"references must be of {request.graph_hash}, got {capture.graph_hash}")
    if capture.signature.device != "cpu":
        raise JobRefused(
            f"sub-networks are trained on the CPU, and the model is on {capture.signature.device}"
        )
    net = Supernet.of_program(capture.program(), capture.signature)
    examples = read_inputs(Path(request.inputs), capture.signature)
    memory = recalled(Path(request.state), net, request.graph_hash)
    inputs = prepared(capture.signature, examples)
    cache = ArtifactCache(request.cache)
    try:
        config = GenerationConfig(
            request.agreement, request.min_quality, request.most_tiers,
            speedups=SPEEDUPS, engine=_engine(request.like), budget_s=request.budget_s,
            seed=request.seed,
        )  # fmt: skip
    except ValueError as error:
        raise JobRefused(str(error)) from error

    def said(stage: str) -> None:
        say(stage, min(1.0, (clock() - began_s) / request.budget_s))

    outcome, memory = next_generation(
        net, capture.grid, inputs, memory, config, worth=_worth(request.twin),
        hooks=Hooks(clock=clock), kernels=StoredSource(cache, capture, say).kernels, say=said,
    )  # fmt: skip
    result = _result(outcome, Path(request.out), clock() - began_s)
    memory.keep(Path(request.state))
    return result


def _clock() -> Callable[[], float]:
    """Seconds of this process's own work where it has one thread: while it is held up for those who
    are served, its budget stands still."""
    import torch

    return time.process_time if torch.get_num_threads() == 1 else time.monotonic


def _engine(like: tuple[str, str, int]) -> Engine:
    from evolve.evolution.anchors import EAGER, Engine

    backend, precision, threads = like
    return Engine(backend, precision, threads) if backend else EAGER


def _worth(twin: str) -> Worth | None:
    if not twin:
        return None
    from evolve.evolution.worth import Worth
    from sims.twin import Twin

    try:
        return Worth(Twin.load(Path(twin)))
    except ValueError:  # it knows no plan of the original yet, so that nothing can be compared
        return None


def _result(outcome: Outcome, out: Path, seconds: float) -> dict[str, Any]:
    """As JSON, the weights of tiers written into ``out``."""
    from supernet.elastic.trained import write_weights

    tiers = []
    for tier in outcome.tiers:
        name = f"{tier.name}.safetensors"
        write_weights(tier.weights, out / name)
        tiers.append(
            {
                "name": tier.name,
                "spec": tier.spec.to_json(),
                "weights": name,
                "quality": tier.quality,
                "speedup": tier.speedup,
                "reason": tier.reason,
            }
        )
    return {
        "tiers": tiers,
        "reason": outcome.reason,
        "generation": outcome.generation,
        "measured": outcome.measured,
        "front": [point.to_json() for point in outcome.front],
        "utility": dict(outcome.utility),
        "notes": list(outcome.notes),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main(GenerationRequest, work, niceness=NICENESS)
