"""What generations of the strategic loop read and change, and what their job is asked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from evolve.evolution.generation_job import GenerationRequest
from supernet.jobs.process import Terms, run_job

if TYPE_CHECKING:
    from evolve.config import Config
    from evolve.control_plane.adoption import Adoptions
    from evolve.control_plane.generations.state import GenerationState
    from evolve.control_plane.plan_builder import BuildSetup, PlanBuilder
    from evolve.control_plane.retraining import RawTwin
    from evolve.control_plane.tiers import Tiers
    from evolve.journal.journal import Journal
    from evolve.monitoring.reservoir import Reservoir
    from evolve.slo import SLO
    from supernet.cache import ArtifactCache
    from supernet.capture.subject import Capture
    from supernet.jobs.pausing import Pauses
    from supernet.plans import Plan, PlanLibrary

__all__ = ["Evolving", "why_not"]

Job: TypeAlias = Callable[[GenerationRequest, Terms], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Evolving:
    """What generations read and change, all of one revision.

    `reservoir`: live inputs, None where nothing is sought. `twin`: the service as it is believed to
    be now; None where nothing came. `weights`: something that changes when the model's weights do.
    """

    config: Config
    setup: BuildSetup
    reservoir: Reservoir | None
    library: PlanLibrary
    builder: PlanBuilder
    tiers: Tiers
    adoptions: Adoptions
    journal: Journal
    pauses: Pauses
    twin: Callable[[], RawTwin | None]
    weights: Callable[[], object]
    job: Job = field(default=run_job)

    def request(
        self, cache: ArtifactCache, state: GenerationState, scratch: Path, inputs: str,
        twin: RawTwin | None, number: int,
    ) -> GenerationRequest:  # fmt: skip
        """What the job of generation `number` is asked; its files lie in `scratch`."""
        setup, settings = self.setup, self.config.evolution
        for name in ("out", "twin"):
            (scratch / name).mkdir(mode=0o700)
        if twin is not None:
            twin.save(scratch / "twin")
        return GenerationRequest(
            cache=str(cache.root), graph_hash=setup.capture.graph_hash,
            references=str(setup.store(cache)), inputs=inputs, state=str(state.search),
            out=str(scratch / "out"), twin="" if twin is None else str(scratch / "twin"),
            like=_like(self.library.admitted()), agreement=setup.slo.agreement,
            min_quality=setup.slo.min_quality, most_tiers=settings.most_tiers,
            budget_s=settings.budget_s, seed=self.config.seed + number,
        )  # fmt: skip


def why_not(slo: SLO, config: Config, capture: Capture) -> str | None:
    """Why no generation is ever begun; None where they are."""
    settings = config.evolution
    if not slo.allows_tiers:
        return "min_quality is 1: the model's architecture is not to be changed"
    if not config.plans.build:
        return "plans.build is off"
    if not settings.every_s:
        return "evolution.every_s is 0"
    if not settings.reservoir:
        return "evolution.reservoir is 0: there are no inputs to learn from"
    if not hasattr(os, "memfd_create"):
        return "live inputs can be handed over on Linux alone"
    return None if capture.exported else capture.reason or "the model was not captured"


def _like(plans: Collection[Plan]) -> tuple[str, str, int]:
    """Backend, precision and threads of the model's fastest plan, by the shapes that all were timed
    at; eager where there is none."""
    own = [plan for plan in plans if not plan.subnet and plan.costs_ms]
    if not own:
        return "", "", 0
    shapes = set.intersection(*(set(plan.costs_ms) for plan in own))

    def took(plan: Plan) -> float:
        return sum(math.log(plan.costs_ms[shape]) for shape in shapes)

    spec = min(own, key=took).spec
    return spec.backend, spec.precision, spec.threads
