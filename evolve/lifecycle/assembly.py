"""All the parts of one revision, made once and introduced to the parts they talk to."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from evolve.control_plane.controller import Controlled, Controller
from evolve.control_plane.generations.evolving import Evolving, why_not
from evolve.control_plane.generations.generation import Generations
from evolve.control_plane.low_quality import remember_low
from evolve.control_plane.plan_builder import BuildSetup, PlanBuilder
from evolve.control_plane.plan_loading import PlanLoading, warm_batches
from evolve.control_plane.recovery import Recovery
from evolve.control_plane.renewal import Renewal
from evolve.control_plane.retraining import Retraining, live_twin, raw_twin
from evolve.control_plane.rollouts import Rollouts
from evolve.control_plane.tiers import Tiers
from evolve.data_plane.faults import Faults, OutOfMemory
from evolve.data_plane.lane import Serving
from evolve.data_plane.lane_pool import LanePool
from evolve.data_plane.original import Original
from evolve.data_plane.scheduler import Scheduler, Tables
from evolve.data_plane.served_by import Origins
from evolve.data_plane.traffic_split import TrafficSplit
from evolve.lifecycle.revision import Revision
from evolve.lifecycle.watching import make_watch
from evolve.monitoring.memory_patterns import Patterns
from evolve.monitoring.reserve import Reserve
from evolve.monitoring.reservoir import Reservoir
from evolve.monitoring.savings import Savings
from evolve.monitoring.stats import Counts, Stats
from evolve.monitoring.traffic import Traffic
from evolve.rollout.gate import Gate
from evolve.watch.live_agreement import LiveAgreements
from evolve.workers.process import ProcessWorker
from evolve.workers.thread import ThreadWorker
from policies.baselines import DEFAULT_CHOICE
from policies.presets import DEFAULT
from profiler.contention import Contention, expected_slowdown
from profiler.costs import CostTable
from profiler.flops import DynamicFlops
from profiler.signals import Window
from supernet.building.reports import condemn
from supernet.capture.stored import store
from supernet.jobs import malloc
from supernet.jobs.pausing import Pauses
from supernet.plans import ORIGINAL, PlanLibrary

if TYPE_CHECKING:
    from evolve.config import Config, WorkersConfig
    from evolve.control_plane.adoption import Adoptions
    from evolve.data_plane.lane import Lane
    from evolve.data_plane.promise import Callbacks
    from evolve.journal.journal import Journal
    from evolve.lifecycle.capturing import CaptureResult
    from evolve.slo import SLO
    from evolve.workers.base import Worker
    from policies.base import Policy
    from profiler.fingerprint import DeviceFingerprint
    from profiler.shapes import Shape
    from supernet.bounds import Bounds
    from supernet.capture.subject import Capture, Wishes

__all__ = ["Assembly", "workers_of"]

BUILD_BYTES, BUILD_WEIGHTS = 2 << 30, 6
"""What one build may hold, apart from the weights, and how often those."""
HANG_S, HANG_SLOS = 8.0, 4.0
"""How long a worker may be silent: so long, or as many times the SLO's p99. Plans whose batches
take more than two of them are not even timed."""


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """What every revision of one runtime has in common.

    `wishes`: what the user forbids or demands. `counts`, `adoptions` and `withdrawn` (liberties
    taken back, and why) go on from one revision to the next. `checks` are called in every tick,
    `lost` where a worker finds that what it is to load is gone. `callbacks` and `computing`: see
    `Serving`.
    """

    model: torch.nn.Module
    wishes: Wishes
    device: DeviceFingerprint
    slo: SLO
    config: Config
    policy: Policy
    journal: Journal
    counts: Counts
    checks: tuple[Callable[[], None], ...]
    lost: Callable[[], None]
    callbacks: Callbacks
    computing: dict[int, Lane]
    adoptions: Adoptions
    withdrawn: dict[str, str] = field(default_factory=dict)

    def revision(self, found: CaptureResult, *, pending: bool = False) -> Revision:
        """Everything that serves `found`; started by whoever puts it in force.

        `pending`: nothing is known of the model yet. Where nothing is known, not even that it keeps
        no state, requests are answered one at a time in the order in which they came.
        """
        clock = time.monotonic
        captured = found.capture
        slo, config, journal = self.slo, self.config, self.journal
        workers = workers_of(config.workers, self.device.cores)
        hang_timeout_s = workers.hang_timeout_s or max(HANG_S, HANG_SLOS * slo.p99_ms / 1e3)
        in_order = captured.form is None
        if in_order:  # and no worker could do what only the original can
            workers = dataclasses.replace(workers, kind="thread", count=1)
        if in_order and not pending:
            why = f"one at a time in order of arrival, by the original: {captured.reason}"
            journal.append("request", ORIGINAL, reason=f"requests are answered {why}")
        lanes, threads = workers.count or 1, workers.threads or 1
        original = Original(self.model, captured, restless=found.restless)
        costs = CostTable(captured.grid)
        if timed := original.timings():
            costs.seed(ORIGINAL, timed)
        window = Window(slo_ms=slo.p99_ms, workers=lanes, clock=clock)
        savings = Savings(costs)
        flops = _flops(found.flops, self.device, threads)
        reserve = Reserve(slo.p99_ms)
        contention = Contention(lanes, expected_slowdown(self.device, lanes, threads))
        stats = Stats(
            window, costs, flops, savings, Traffic(clock), lambda: clock() * 1e3, self.counts,
            reserve, contention,
        )  # fmt: skip
        library = PlanLibrary()
        pauses = Pauses()
        scheduler = Scheduler(
            Tables(
                plans=(ORIGINAL,), cost_ms=costs.matrix([ORIGINAL]), lengths=captured.grid.lengths,
                tier=np.zeros(1, np.int64), buckets_only=frozenset(), params=DEFAULT, lanes=lanes,
                slowdowns=contention.slowdowns,
            ),
            limit=config.queue_limit, rate_per_s=window.arrival_per_s,
            now_ms=lambda: clock() * 1e3, in_order=in_order,
            slo_ms=slo.p99_ms, reserve=reserve,
            on_engaged=lambda engaged: (pauses.hold if engaged else pauses.let_go)("serving"),
        )  # fmt: skip
        setup = self._build_setup(found, threads)
        faults = Faults(library, OutOfMemory(Path("/proc/vmstat")))
        agreements = LiveAgreements(slo.agreement, slo.min_quality)
        split = TrafficSplit(library, clock)
        licence, watch = make_watch(
            setup, original, library, journal, pauses, faults, agreements, self.withdrawn
        )
        reservoir = _reservoir(slo, config, captured)
        serving = Serving(
            scheduler, original, captured, stats, faults, licence, watch,
            partial(_bounds, library), Origins(library), split, self.callbacks, self.computing,
            clock, reservoir,
        )  # fmt: skip
        warm = partial(warm_batches, captured.signature, captured.guards, costs, slo.p99_ms)
        pool = LanePool(
            lanes,
            serving,
            hire=partial(_hire, workers, hang_timeout_s),
            on_event=self._journal_worker,
            warm=warm,
            on_lost=self.lost,
        )
        patterns = Patterns(captured, self.device, setup.open_cache, self._journal_plan)

        def check() -> None:
            pool.check()
            watch.check()
            rollouts.look()
            for one in self.checks:
                one()

        controlled = Controlled(
            scheduler, library, costs, stats, journal, patterns, captured.signature.paddable
        )
        controller = Controller(
            controlled, self.policy, DEFAULT_CHOICE, period_s=config.tick_ms / 1e3, clock=clock,
            check=check,
        )  # fmt: skip
        loading = PlanLoading(
            library, costs, pool, savings, slo_ms=slo.p99_ms, limit=config.plans.resident,
            refresh=controller.refresh, on_event=self._journal_plan,
        )  # fmt: skip
        gate = Gate(slo.min_quality, config.rollout.samples, config.rollout.canary_share)
        rollouts = Rollouts(gate, library, faults, agreements, split, loading, journal)
        first_version = original.version()

        def stay_out(key: str, why: str) -> None:
            plan = library.get(key)
            # A plan of the old weights is wrong for the new ones, and right once they come back.
            if plan is None or original.version() != first_version:
                return
            cache = setup.open_cache(lambda entry, why: None)
            if plan.subnet and agreements.of(plan.subnet).is_below:
                remember_low(cache, plan.spec.graph_hash, plan.subnet, agreements)
            else:
                condemn(cache, plan.spec, self.device.key, why)

        recovery = Recovery(faults, pool, loading, journal, stay_out)

        def afterwards() -> None:
            if workers.kind == "process":
                Renewal(
                    pool, threads=threads, hang_timeout_s=hang_timeout_s, warm=warm,
                    on_event=self._journal_worker,
                ).run()  # fmt: skip
            patterns.find()
            malloc.give_back()  # what storing and comparing took here

        builder = PlanBuilder(setup, library, loading, self._journal_plan, pauses, afterwards)
        tiers = Tiers(
            setup, library, loading, self.adoptions, agreements, rollouts, builder, journal,
            self._journal_plan, pauses,
        )  # fmt: skip
        believed = (slo, lanes, scheduler, stats, library)
        retraining = Retraining(
            config.policy, controller, journal, partial(live_twin, *believed), pauses
        )
        generations = Generations(
            Evolving(
                config, setup, reservoir, library, builder, tiers, self.adoptions, journal, pauses,
                partial(raw_twin, *believed), original.version,
            )
        )  # fmt: skip
        return Revision(
            serving, pool, library, controller, loading, recovery, builder, tiers, retraining,
            generations, journal, pauses, pending=pending, in_process=workers.kind == "thread",
        )  # fmt: skip

    def keep(self, found: CaptureResult) -> None:
        """Puts the captured program into the cache; called where it was captured."""
        cache = self._build_setup(found, 1).open_cache(lambda entry, why: None)
        store(cache, found.capture)

    def _build_setup(self, found: CaptureResult, threads: int) -> BuildSetup:
        return BuildSetup(
            found.capture, self.device, self.slo, self.config.plans, threads,
            isolated=self.config.workers.kind == "process", stored=found.stored,
            has_room=_has_room(self.model, self.device),
        )  # fmt: skip

    def _journal_worker(self, worker: str, what: str) -> None:
        self.journal.append("worker", worker, reason=what)

    def _journal_plan(self, plan: str, before: str, after: str, reason: str) -> None:
        self.journal.append(
            "plan", plan, before={"state": before}, after={"state": after}, reason=reason
        )


def workers_of(config: WorkersConfig, cores: int) -> WorkersConfig:
    """The settings with what is unset filled in.

    Thread workers serve callers who wait one at a time: one worker with all cores. Process
    workers serve a queue: one per core with one thread each, which answers more per second.
    """
    if config.kind == "thread":
        count = config.count or 1
        return dataclasses.replace(
            config, count=count, threads=config.threads or max(1, cores // count)
        )
    threads = config.threads or 1
    return dataclasses.replace(
        config, count=config.count or max(1, cores // threads), threads=threads
    )


def _has_room(model: torch.nn.Module, device: DeviceFingerprint) -> bool:
    """Whether two builds at a time leave the machine its breath: each takes a core and holds the
    weights a few times over. On a GPU they would time each other."""
    tensors = (*model.parameters(), *model.buffers())
    weights = sum(_bytes(tensor) for tensor in tensors)
    needed = BUILD_BYTES + BUILD_WEIGHTS * weights
    free = psutil.virtual_memory().available
    free = min(free, device.memory_bytes or free)  # what a container allows
    return device.kind == "cpu" and device.cores > 1 and free > 2 * needed


def _bytes(tensor: torch.Tensor) -> int:
    try:
        return tensor.numel() * tensor.element_size()
    except (RuntimeError, ValueError):  # it has no size yet
        return 0


def _flops(
    counted: Mapping[Shape, float], device: DeviceFingerprint, threads: int
) -> DynamicFlops | None:
    """None where FLOPs can't be counted, or the machine's peak was never measured."""
    if not counted or "fp32" not in device.matrix_gflop_per_s:
        return None
    cores = min(threads, max(1, device.cores))
    return DynamicFlops(counted, device.gflop_per_s("fp32", cores=cores))


def _reservoir(slo: SLO, config: Config, captured: Capture) -> Reservoir | None:
    """None where nobody would learn from it."""
    if why_not(slo, config, captured) is not None:
        return None
    kept = config.evolution
    return Reservoir(kept.reservoir, kept.reservoir_mib, random.Random(config.seed))


def _bounds(library: PlanLibrary, key: str) -> Bounds | None:
    plan = library.get(key)
    return None if plan is None else plan.bounds


def _hire(workers: WorkersConfig, hang_timeout_s: float, name: str) -> Worker:
    if workers.kind == "thread":
        return ThreadWorker(name)
    return ProcessWorker(name, threads=workers.threads or 1, hang_timeout_s=hang_timeout_s)
