"""One capture of the model and all that serves it: put in force and replaced as a whole.

wrap ──► pending ──► captured ──► pending ──► captured ──► …
         (the original,  (plans are    (its weights
          one at a time)  built)        moved)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolve.control_plane.controller import Controller
    from evolve.control_plane.generations.generation import Generations
    from evolve.control_plane.plan_builder import PlanBuilder
    from evolve.control_plane.plan_loading import PlanLoading
    from evolve.control_plane.recovery import Recovery
    from evolve.control_plane.retraining import Retraining
    from evolve.control_plane.tiers import Tiers
    from evolve.data_plane.lane import Serving
    from evolve.data_plane.lane_pool import LanePool
    from evolve.data_plane.request_queue import Request
    from evolve.journal.journal import Journal
    from supernet.jobs.pausing import Pauses
    from supernet.plans import PlanLibrary

__all__ = ["Revision"]

CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Revision:
    """The parts that serve one capture, for the runtime and whoever looks inside.

    `pending`: there is no capture (yet), so nothing is built or trained, and the original answers
    each request by itself. `in_process`: its workers compute in this process.
    """

    serving: Serving
    pool: LanePool
    library: PlanLibrary
    controller: Controller
    loading: PlanLoading
    recovery: Recovery
    builder: PlanBuilder
    tiers: Tiers
    retraining: Retraining
    generations: Generations
    journal: Journal
    pauses: Pauses
    pending: bool
    in_process: bool

    @property
    def is_settled(self) -> bool:
        """Whether all that was to be built for it was tried."""
        return not self.pending and self.builder.wait(0.0) and self.tiers.wait(0.0)

    def start(self) -> None:
        """Called once, before it is put in force."""
        self.serving.scheduler.warm()
        self.recovery.start()
        self.pool.start()
        self.controller.start()
        self.serving.watch.start()
        if not self.pending:
            self.builder.start()
            self.tiers.start()
            self.retraining.start()
            self.generations.start()

    def retire(self) -> list[Request]:
        """Takes no more requests; returns those that still waited. What runs is answered."""
        return self.serving.scheduler.close()

    def stop(self) -> None:
        """Ends the builds and the trainings under way and starts no other."""
        self.generations.stop()
        self.builder.stop()
        self.tiers.stop()
        self.retraining.stop()
        self.serving.watch.stop()

    def close(self) -> None:
        """Waits for the batches under way and ends everything. `retire` comes first."""
        self.stop()
        self.controller.stop()
        self.pool.close(CLOSE_TIMEOUT_S)
        self.recovery.close(CLOSE_TIMEOUT_S)  # after the lanes: what they noted last, too
        self.builder.join(CLOSE_TIMEOUT_S)
        self.tiers.join(CLOSE_TIMEOUT_S)
        self.retraining.join(CLOSE_TIMEOUT_S)
        self.generations.join(CLOSE_TIMEOUT_S)
        self.serving.watch.join(CLOSE_TIMEOUT_S)
