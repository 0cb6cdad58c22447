"""Derived captures: a sub-network of a stored capture as one of its own, made once and kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.cache import MEMO, ArtifactCache
from supernet.capture.stored import StoredCapture
from supernet.elastic.derive_job import MEASURES, DeriveRequest
from supernet.elastic.trained import digest_of
from supernet.experiments.unseen import Unseen
from supernet.jobs.pausing import Pauses
from supernet.jobs.process import Terms, run_job
from supernet.jobs.progress import Stage

if TYPE_CHECKING:
    from supernet.capture.captured import Capture
    from supernet.elastic.subnet import SubnetSpec

__all__ = ["Derived", "derive", "derived_hash"]

BUDGET_S = 600.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Derived:
    """A sub-network's capture in the cache.

    ``key`` names its batches there, ``ops`` are its program's operators. ``agreement`` with the
    original, by measure, is the mean over ``rows`` stored rows that look like the examples.
    """

    graph_hash: str
    weights_version: str
    key: str
    ops: tuple[str, ...]
    agreement: Mapping[str, float]
    rows: int

    def capture(self, original: Capture) -> Capture:
        """What is known of the sub-network; its program and batches stay in the cache.

        What may be done with requests and which numbers may come is what holds for the original,
        whose operators these are a part of.
        """
        return dataclasses.replace(
            original, program=None, graph_hash=self.graph_hash, ops=self.ops,
            weights_version=self.weights_version, references=(), unseen=Unseen(),
        )  # fmt: skip

    def folder(self, cache: ArtifactCache) -> Path:
        """Where its batches lie, held while ``cache`` lives; an ``OSError`` where they are gone."""
        found = cache.held("references", self.key)
        if found is None or cache.entry("captures", self.graph_hash) is None:
            raise OSError(f"the sub-network's capture is gone from {cache.root}")
        return found


def derived_hash(graph_hash: str, spec: SubnetSpec, digest: str) -> str:
    """Names a sub-network of a graph with the weights of this digest ("": the original's)."""
    asked = f"derived {_VERSION} {graph_hash} {spec.key} {digest}"
    return hashlib.sha256(asked.encode()).hexdigest()


def derive(
    cache: ArtifactCache,
    capture_dir: Path,
    spec: SubnetSpec,
    weights: Path | None = None,
    *,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
    cancelled: Callable[[], bool] = lambda: False,
    pauses: Pauses | None = None,
) -> Derived:
    """Store a sub-network of the capture in ``capture_dir``, once; it is found again there.

    ``weights``: a safetensors file by the model's names, of the full sizes or the sub-network's
    own; what it does not name, or all without one, is the original's. Raises a `JobFailed`:
    `BadRequest` for a spec of another model, for weights that hold a NaN or are not the model's;
    `JobInterrupted` once ``cancelled()``.
    """
    original = StoredCapture.read(capture_dir)
    digest = "" if weights is None else digest_of(weights)
    graph_hash = derived_hash(original.graph_hash, spec, digest)
    asked = hashlib.sha256(f"{graph_hash} {original.key}".encode()).hexdigest()
    key, name = f"{graph_hash[:24]}-{asked[:24]}", f"{MEMO}derived-{asked[:20]}"
    report = cache.report(name)
    if report is not None:
        try:
            known = _from_report(graph_hash, key, report)
            known.folder(cache)
            return known
        except (LookupError, OSError, TypeError, ValueError):
            pass  # made anew below
    request = DeriveRequest(
        str(cache.root), str(capture_dir), spec.to_json(), str(weights or ""), digest, graph_hash,
        key,
    )  # fmt: skip
    with cache.scratch() as scratch:
        terms = Terms(
            scratch, BUDGET_S, on_progress=partial(_pass_on, on_progress), cancelled=cancelled,
            pauses=pauses or Pauses(), imports=("torch._dynamo",),
        )  # fmt: skip
        report = run_job(request, terms)
    made = _from_report(graph_hash, key, report)
    made.folder(cache)
    cache.put_report(name, report)
    return made


def _pass_on(on_progress: Callable[[str, float], None], stage: Stage) -> None:
    on_progress(stage.name, stage.share)


def _from_report(graph_hash: str, key: str, report: Mapping[str, Any]) -> Derived:
    return Derived(
        graph_hash,
        str(report["weights_version"]),
        key,
        tuple(str(op) for op in report["ops"]),
        {measure: float(report["agreement"][measure]) for measure in MEASURES},
        int(report["rows"]),
    )
