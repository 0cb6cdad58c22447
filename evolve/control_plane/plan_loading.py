"""A verified plan becomes one that serves: priced, worth its memory, loaded, on the tables.

The other way round too: a plan that a better one made superfluous is let go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evolve.control_plane.residency import worth_keeping
from evolve.errors import PlanFault, PlanLost
from supernet.guards import Within
from supernet.plans import ORIGINAL, PlanState
from supernet.tiers import plan_tier

if TYPE_CHECKING:
    from evolve.data_plane.lane_pool import LanePool
    from evolve.monitoring.savings import Savings
    from evolve.workers.base import Inputs
    from profiler.costs import CostTable
    from supernet.guards import Guard
    from supernet.plans import Plan, PlanLibrary
    from supernet.signature import Signature

__all__ = ["PlanLoading", "warm_batches"]

_SUPERFLUOUS = "not resident: others are as fast or nearly, at every shape"
WARM_BUDGET_MS = 500.0  # only OpenVINO's first run of a shape is much slower than the next


class PlanLoading:
    """Called by the plan builder for each verified plan, and when prices change.

    Args:
        library, costs, pool, savings: Where plans are known, priced, held and accounted for.
        slo_ms: Shapes that cost more count for nothing.
        limit: Plans held at once.
        refresh: Puts the change on the scheduler's tables.
        on_event: Told, for the journal, (plan key, before, after, reason).
    """

    def __init__(
        self,
        library: PlanLibrary,
        costs: CostTable,
        pool: LanePool,
        savings: Savings,
        *,
        slo_ms: float,
        limit: int,
        refresh: Callable[[], None],
        on_event: Callable[[str, str, str, str], None],
    ) -> None:
        self._library = library
        self._costs = costs
        self._pool = pool
        self._savings = savings
        self._lock = threading.Lock()
        self._lost: set[str] = set()  # plans whose files are gone
        self._slo_ms = slo_ms
        self._limit = limit
        self._refresh = refresh
        self._on_event = on_event

    def admit(self, plan: Plan) -> None:
        """Makes `plan`, which the library holds as verified, serve if it is the best choice
        somewhere.

        One that a worker can't load is quarantined.
        """
        with self._lock:
            self._costs.seed(plan.key, plan.costs_ms)
            self._move(plan.key, PlanState.ADMITTED, f"timed at {len(plan.costs_ms)} shapes")
            self._settle({plan.key})

    def reprice(self, plans: Sequence[Plan]) -> None:
        """Has the new timings of admitted plans decide once more which of all serve."""
        with self._lock:
            for plan in plans:
                self._costs.seed(plan.key, plan.costs_ms)
                self._savings.expect(plan)
            self._settle(set())

    def dismiss(self, subnet: str) -> None:
        """Takes the plans of a sub-network away for good, and loads what is worth it instead."""
        with self._lock:
            gone = self._library.drop(subnet)
            self._refresh()  # from here on no batch begins on them
            for plan in gone:
                self._pool.unload(plan.key)
                self._costs.forget(plan.key)
            self._settle(set())

    def retire(self, subnet: str, why: str) -> None:
        """Takes the plans of a sub-network out for good; they stay on record."""
        with self._lock:
            for plan in self._library.admitted():
                if plan.subnet == subnet:
                    self._move(plan.key, PlanState.QUARANTINED, why)
            self._refresh()
            for plan in self._library.plans():
                if plan.subnet == subnet:
                    self._pool.unload(plan.key)
            self._settle(set())

    def refill(self) -> None:
        """Loads what is worth its memory now that a plan was taken out, if anything is."""
        with self._lock:
            self._settle(set())

    def _settle(self, new: set[str]) -> None:
        keep, held = self._keep(), self._pool.held()
        for plan in self._library.admitted():
            if plan.key not in keep - held:
                continue
            try:
                self._pool.load(plan)
            except PlanLost as fault:  # it is not to blame, and all will be built again
                self._pool.unload(plan.key)
                self._lost.add(plan.key)
                self._pool.lost(fault)
                return self._settle(new - {plan.key})
            except PlanFault as fault:
                self._pool.unload(plan.key)
                self._move(plan.key, PlanState.QUARANTINED, str(fault))
                return self._settle(new - {plan.key})  # without it another one is worth keeping
            if not self._move(plan.key, PlanState.RESIDENT, self._savings.expect(plan)):
                self._pool.unload(plan.key)  # it failed on a lane that had it early
                return self._settle(new - {plan.key})
        for key in (new | held) - keep:
            self._pool.unload(key)
            if key in held:
                self._move(key, PlanState.ADMITTED, _SUPERFLUOUS)
            else:
                self._on_event(key, "admitted", "admitted", _SUPERFLUOUS)
        self._refresh()

    def _move(self, key: str, to: PlanState, reason: str) -> bool:
        """Says so and returns True unless the plan was quarantined meanwhile."""
        change = self._library.move(key, to, reason)
        if change.happened:
            self._on_event(key, change.before.value, to.value, reason)
        return change.plan.state is to

    def _keep(self) -> set[str]:
        plans = [plan for plan in self._library.admitted() if plan.key not in self._lost]
        keys = [ORIGINAL, *(plan.key for plan in plans)]
        tiers = [0, *(plan_tier(plan) for plan in plans)]
        kept = worth_keeping(
            self._costs.matrix(keys), tiers, slo_ms=self._slo_ms, limit=self._limit
        )
        return {keys[i] for i in kept}


def warm_batches(
    signature: Signature, guards: Sequence[Guard], costs: CostTable, slo_ms: float, plan: Plan
) -> list[Inputs]:
    """The batches worth running once before `plan` serves: those that can meet the SLO.

    Cheapest first, within `WARM_BUDGET_MS`: beyond it the first of a shape pays for itself. None
    where 0, which they hold, is no index that the model takes.
    """
    if any(isinstance(guard, Within) and not guard.least <= 0 <= guard.most for guard in guards):
        return []
    matrix = costs.matrix([plan.key])[0]
    grid = costs.grid
    shapes = sorted(
        (float(matrix[row, bucket]), row + 1, length)
        for row in range(grid.max_rows)
        for bucket, length in enumerate(grid.lengths)
        if matrix[row, bucket] <= slo_ms
    )
    batches: list[Inputs] = []
    spent_ms = 0.0
    for cost_ms, rows, length in shapes:
        spent_ms += cost_ms
        if spent_ms > WARM_BUDGET_MS:
            break
        batches.append([(spec.dtype, spec.shape(rows, length)) for spec in signature.inputs])
    return batches
