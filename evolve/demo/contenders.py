"""The three that face the same stream: the plain loop, the best static setting, evolve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from evolve.demo.load import Outcome, drive
from evolve.demo.plain import PlainLoop

if TYPE_CHECKING:
    from evolve.runtime import Runtime

__all__ = ["Figures", "Stream", "run_plain", "run_runtime"]

Request = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Who is sent when: `requests[i]` leaves at `sent_s[i]`; the surge lasts `surge_s`."""

    requests: Sequence[Request]
    sent_s: npt.NDArray[np.float64]
    surge_s: tuple[float, float]
    seconds: float
    slo_ms: float
    keep_every: int

    def __post_init__(self) -> None:
        if len(self.requests) != len(self.sent_s):
            raise ValueError(
                f"requests must be as many as sent_s ({len(self.sent_s)}), got {len(self.requests)}"
            )

    def in_surge(self) -> npt.NDArray[np.bool_]:
        """Which requests are sent during the surge."""
        return (self.sent_s >= self.surge_s[0]) & (self.sent_s < self.surge_s[1])


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contender did with the stream; ratios are over all requests offered.

    `goodput_per_s`: answers within the SLO per second of the stream, and of its surge alone.
    `p50_ms`, `p99_ms`: from the intended send time, over answered requests. `error`: largest
    relative L2 error of the answers kept for comparison with the original model (`compared` of
    them). `failed`: neither answered nor refused in time. `memory_mib`: proportional set size
    of all its processes. `padded_token_ratio`: of all tokens computed, those thrown away.
    """

    goodput_per_s: float
    surge_goodput_per_s: float
    p50_ms: float
    p99_ms: float
    met_ratio: float
    refused_ratio: float
    error: float
    compared: int
    failed: int
    memory_mib: float
    padded_token_ratio: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def run_plain(
    model: torch.nn.Module, stream: Stream, on_second: Callable[[float], None]
) -> tuple[Figures, Outcome]:
    """The stream through one-at-a-time PyTorch."""
    loop = PlainLoop(model, stream.requests[:40], length_name="input_ids", slo_ms=stream.slo_ms)
    try:
        return _run(lambda i: loop.submit(stream.requests[i]), model, stream, on_second, 0.0)
    finally:
        loop.close()


def run_runtime(
    runtime: Runtime, model: torch.nn.Module, stream: Stream, on_second: Callable[[float], None]
) -> tuple[Figures, Outcome]:
    """The stream through a wrapped model."""

    def submit(index: int) -> Future[Any]:
        return runtime.submit(**stream.requests[index])

    before = runtime.status()["counts"]
    figures, outcome = _run(submit, model, stream, on_second, 0.0)
    after = runtime.status()["counts"]
    tokens = after["tokens"] - before["tokens"]
    padded = (after["padded_tokens"] - before["padded_tokens"]) / max(tokens, 1)
    return replace(figures, padded_token_ratio=padded), outcome


def _run(
    submit: Callable[[int], Future[Any]],
    model: torch.nn.Module,
    stream: Stream,
    on_second: Callable[[float], None],
    padded: float,
) -> tuple[Figures, Outcome]:
    outcome = drive(
        submit, stream.sent_s, keep=lambda i: i % stream.keep_every == 0, on_second=on_second
    )
    memory_mib = _memory_mib()
    met = outcome.met(stream.slo_ms)
    surge = stream.in_surge()
    answered = outcome.latency_ms[~outcome.refused & ~outcome.failed]
    errors = [_error(model, stream.requests[i], answer) for i, answer in outcome.kept.items()]
    return Figures(
        goodput_per_s=float(met.sum()) / stream.seconds,
        surge_goodput_per_s=float(met[surge].sum()) / (stream.surge_s[1] - stream.surge_s[0]),
        p50_ms=float(np.median(answered)) if answered.size else float("nan"),
        p99_ms=float(np.quantile(answered, 0.99)) if answered.size else float("nan"),
        met_ratio=float(met.mean()),
        refused_ratio=float(outcome.refused.mean()),
        error=max(errors, default=0.0),
        compared=len(errors),
        failed=int(outcome.failed.sum()),
        memory_mib=memory_mib,
        padded_token_ratio=padded,
    ), outcome


def _error(model: torch.nn.Module, request: Request, answer: Any) -> float:
    """Relative L2 over all outputs together, as a plan is judged."""
    with torch.no_grad():
        reference = model(**request)
    got = torch.cat([leaf.reshape(-1) for leaf in answer.to_tuple()])
    want = torch.cat([leaf.reshape(-1) for leaf in reference.to_tuple()])
    return float((got - want).norm() / want.norm())


def _memory_mib() -> float:
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it ended meanwhile
            continue
        # Shared pages are counted once over all processes where the system says how (Linux).
        total += getattr(memory, "pss", memory.uss)
    return total / 2**20
