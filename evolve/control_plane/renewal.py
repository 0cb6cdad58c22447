"""Fresh process workers once it is known which plans serve: copies of one that has them loaded.

Those that served while plans were built have loaded engines that win nowhere, and each its own copy
of every weight; some of that is never given back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evolve.errors import PlanFault
from evolve.workers.nursery import Nursery
from evolve.workers.process import ProcessWorker, environment, load_request
from supernet.backends.base import backend

if TYPE_CHECKING:
    from evolve.data_plane.lane_pool import LanePool
    from evolve.workers.base import Inputs, Worker
    from supernet.plans import Plan

__all__ = ["Renewal"]


class Renewal:
    """Called when every plan was tried; the service goes on meanwhile, and as before if it fails.

    Args:
        pool: Whose workers are renewed.
        threads, hang_timeout_s: Of each worker.
        warm: The batches to run once on a plan before it serves.
        on_event: Told, for the journal, (subject, what happened).
    """

    def __init__(
        self,
        pool: LanePool,
        *,
        threads: int,
        hang_timeout_s: float,
        warm: Callable[[Plan], Sequence[Inputs]],
        on_event: Callable[[str, str], None],
    ) -> None:
        self._pool = pool
        self._threads = threads
        self._hang_timeout_s = hang_timeout_s
        self._warm = warm
        self._on_event = on_event

    def run(self) -> None:
        """Renews them where the plans that serve can be shared; else does nothing."""
        plans = [plan for plan in self._pool.plans() if backend(plan.spec.backend).needs_torch]
        if not plans or not Nursery.possible(self._threads):
            return
        nursery = Nursery(environment(self._threads))
        try:
            for plan in plans:
                nursery.load(plan.key, load_request(plan, self._warm(plan)))
            self._pool.renew(lambda name: self._hire(name, nursery), nursery.close)
        except (PlanFault, OSError) as fault:
            nursery.close()
            self._on_event("nursery", f"the workers stay as they are: {fault}")
            return
        self._on_event(
            "nursery", f"workers are copies of process {nursery.pid} and share its weights"
        )

    def _hire(self, name: str, nursery: Nursery) -> Worker:
        """A copy of the nursery; a worker of its own once that is gone."""
        given = nursery if nursery.alive else None
        return ProcessWorker(
            name, threads=self._threads, hang_timeout_s=self._hang_timeout_s, nursery=given
        )
