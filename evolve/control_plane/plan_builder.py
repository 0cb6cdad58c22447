"""The control plane's first part: builds plans beside the serving process and hands them over.

One thread or two supervise; the building itself happens in niced processes of their own
(`supernet.building.build`), so that killing one at any moment costs nothing but that build.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.places import StorageFolder, storage_folder
from supernet.backends.base import BACKENDS
from supernet.building.build import BuildLimits, build_plan, compare_plans, find_fusions
from supernet.cache import ArtifactCache
from supernet.capture.stored import store
from supernet.errors import BuildFailed, BuildInterrupted, CacheError
from supernet.fidelity import Limit
from supernet.plans import PlanState
from supernet.proposals import propose, unavailable

if TYPE_CHECKING:
    from evolve.config import PlansConfig
    from evolve.control_plane.plan_loading import PlanLoading
    from evolve.slo import SLO
    from profiler.fingerprint import DeviceFingerprint
    from supernet.capture.subject import Capture
    from supernet.jobs.pausing import Pauses
    from supernet.plans import Plan, PlanLibrary, PlanSpec

__all__ = ["BuildSetup", "PlanBuilder", "Progress"]

_TIMED_PER_SLO = 2.0  # batches that take longer than so many SLOs are never formed: not timed


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the building is: `done` of `total` plans, and what the current one does."""

    done: int
    total: int
    plan: str
    stage: str
    share: float


@dataclass(frozen=True, slots=True)
class BuildSetup:
    """What is built for whom, and where it is kept.

    `stored` gives the folder of the captured program in the cache; None: it is written from here.
    `has_room`: whether the machine can bear two builds at a time. `like`: plans of another capture
    after whose manner these are built, none for all that make sense. `subnet` and `quality`: of the
    sub-network that is built, "" for the model.
    """

    capture: Capture
    device: DeviceFingerprint
    slo: SLO
    config: PlansConfig
    threads: int
    isolated: bool = False
    stored: Callable[[ArtifactCache], Path] | None = None
    has_room: bool = False
    like: tuple[PlanSpec, ...] = ()
    subnet: str = ""
    quality: float = 1.0

    def obstacle(self) -> str | None:
        """Why nothing is built; None when something is."""
        if not self.capture.exported:
            return self.capture.reason or "the model was not captured"
        return None if self.config.build else "plans.build is off"

    def specs(self) -> tuple[PlanSpec, ...]:
        if self.like:
            graph, weights = self.capture.graph_hash, self.capture.weights_version
            return self.wanted(
                [replace(spec, graph_hash=graph, weights_version=weights) for spec in self.like]
            )
        proposed = propose(
            self.capture, self.device, self.config.backends, self.config.precisions, self.threads,
            Limit(self.slo.metric, self.slo.max_error), isolated=self.isolated,
        )  # fmt: skip
        return self.wanted(proposed)

    def wanted(self, specs: Sequence[PlanSpec]) -> tuple[PlanSpec, ...]:
        """Those among `specs` that the settings let through."""
        only = self.config.only
        return tuple(spec for spec in specs if only is None or spec.key in only)

    def marked(self, plan: Plan) -> Plan:
        """`plan`, with the name of what it runs."""
        return replace(plan, subnet=self.subnet, quality=self.quality)

    def left_out(self) -> dict[str, str]:
        """Backends that could have been asked for and can't be used here, and why."""
        if self.like:
            return {}
        asked = self.config.backends or tuple(name for name in BACKENDS if name != "eager")
        reasons = {name: unavailable(name, self.capture, isolated=self.isolated) for name in asked}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def open_cache(self, on_discard: Callable[[str, str], None]) -> ArtifactCache:
        """The cache; raises `CacheError` or `OSError` where its folder can't be used."""
        place = self.place()
        if place.folder is None:
            raise CacheError(f"{place.why}; name a folder by plans.cache_dir")
        return ArtifactCache(place.folder, on_discard)

    def place(self) -> StorageFolder:
        """Where the cache is: as the settings say, else with what is kept for this user."""
        return StorageFolder(self.config.cache_dir) if self.config.cache_dir else storage_folder()

    def store(self, cache: ArtifactCache) -> Path:
        """The folder of the captured program, written there unless it already is."""
        return store(cache, self.capture) if self.stored is None else self.stored(cache)

    def limits(self) -> BuildLimits:
        return BuildLimits(
            budget_s=self.config.budget_s,
            up_to_ms=_TIMED_PER_SLO * self.slo.p99_ms,
            metric=self.slo.metric,
            max_error=self.slo.max_error,
        )


class PlanBuilder:
    """Builds each proposed plan once, best first, then those that a search finds, and hands each
    verified one over.

    Args:
        setup: What to build and how.
        library: Every outcome is put here.
        loading: Makes verified plans serve.
        on_event: Told, for the journal, (subject, before, after, reason).
        pauses: Hold up what only improves a service that plans already serve.
        afterwards: Called once the usual plans were tried.
    """

    def __init__(
        self,
        setup: BuildSetup,
        library: PlanLibrary,
        loading: PlanLoading,
        on_event: Callable[[str, str, str, str], None],
        pauses: Pauses,
        afterwards: Callable[[], None],
    ) -> None:
        self._setup = setup
        self._library = library
        self._loading = loading
        self._on_event = on_event
        self._pauses = pauses
        self._afterwards = afterwards
        self._stop = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plan-builder", daemon=True)
        self.progress = Progress(0, 0, "", "starting", 0.0)
        self._built = 0

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout_s: float | None) -> bool:
        """Blocks until every plan was tried; False when the time ran out first."""
        return self._done.wait(timeout_s)

    def stop(self) -> None:
        """Ends the build under way and starts no other."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            if (obstacle := self._setup.obstacle()) is not None:
                self._on_event("plans", "", "none", f"the original model serves: {obstacle}")
                return
            self._build_all()
        except BuildInterrupted:  # what the builds start from was taken away: this revision ends
            return
        except Exception as error:
            # A full disk, an unusable cache: the service goes on with what it has.
            self._on_event("plans", "", "none", f"no more plans are built: {_line(error)}")
        finally:
            self.progress = Progress(self.progress.total, self.progress.total, "", "done", 0.0)
            self._done.set()

    def _build_all(self) -> None:
        for backend, reason in self._setup.left_out().items():
            self._on_event(backend, "", "left out", reason)
        specs = self._setup.specs()
        self.progress = Progress(0, len(specs), "", "storing the capture", 0.0)
        place = self._setup.place()
        if place.folder is not None and place.why is not None:
            self._on_event("plans", "", "kept elsewhere", f"in {place.folder}: {place.why}")
        cache = self._setup.open_cache(
            lambda entry, why: self._on_event(entry, "cached", "discarded", why)
        )
        folder = self._setup.store(cache)
        self._build_each(cache, folder, specs)
        if self._stop.is_set():
            return
        self._compare(cache, folder)
        self._afterwards()
        found = self._search(cache, folder, specs)
        for spec in found:
            if self._stop.is_set():
                return
            self._build(cache, folder, len(specs) + len(found), spec, self._later())
        if found:
            self._compare(cache, folder)
        for key in self._setup.config.only or ():
            if self._library.get(key) is None:
                self._on_event(
                    key, "", "left out", "no plan to build here has the key in plans.only"
                )

    def _build_each(self, cache: ArtifactCache, folder: Path, specs: Sequence[PlanSpec]) -> None:
        """One after the other; where there is room two at a time, of which one stands still while
        requests are answered, as long as the other has something to build."""
        waiting = deque(specs)

        def build(pauses: Pauses | None) -> None:
            while not self._stop.is_set():
                try:
                    spec = waiting.popleft()
                except IndexError:
                    return
                self._build(cache, folder, len(specs), spec, pauses)

        if not self._setup.has_room or self._later() is None:
            return build(None)
        failed: list[BaseException] = []

        def build_beside(pauses: Pauses) -> None:
            try:
                build(pauses)
            except BaseException as error:
                failed.append(error)

        with self._pauses.follower() as pauses:
            # A daemon, and no pool's: nothing waits for it at the end of the interpreter.
            beside = threading.Thread(
                target=build_beside, args=(pauses,), name="plan-builder-beside", daemon=True
            )
            beside.start()
            try:
                build(None)
            finally:
                waiting.clear()
        beside.join()
        if failed:
            raise failed[0]

    def _search(
        self, cache: ArtifactCache, folder: Path, tried: Sequence[PlanSpec]
    ) -> tuple[PlanSpec, ...]:
        """Fused plans beyond those tried; none where a search is not wanted or makes no sense."""
        base = next((s for s in tried if s.backend == "fused" and s.precision == "fp32"), None)
        if base is None or not self._setup.config.search or self._stop.is_set():
            return ()

        def on_progress(stage: str, share: float) -> None:
            self.progress = Progress(len(tried), len(tried) + 1, "fused", stage, share)

        on_progress("searching fusions", 0.0)
        try:
            found = find_fusions(
                cache, folder, base, self._setup.limits(), on_progress,
                device=self._setup.device.key, cancelled=self._stop.is_set,
                pauses=self._later(),
            )  # fmt: skip
        except BuildInterrupted:
            return ()
        except BuildFailed as error:
            self._on_event("fused", "", "not searched", str(error))
            return ()
        more = tuple(spec for spec in self._setup.wanted(found) if spec not in tried)
        told = f"{len(found)} fused plans that nothing beats in time, memory and error"
        self._on_event("fused", "", "searched", f"{told}, {len(more)} of them new")
        return more

    def _compare(self, cache: ArtifactCache, folder: Path) -> None:
        """Takes turns where timings are close, which were minutes apart, and has that decide."""
        own = self._setup.capture.graph_hash
        plans = [plan for plan in self._library.admitted() if plan.spec.graph_hash == own]
        if len(plans) < 2 or self._stop.is_set():
            return

        def on_progress(stage: str, share: float) -> None:
            self.progress = Progress(len(plans), len(plans) + 1, "plans", stage, share)

        try:
            found = compare_plans(
                cache, folder, plans, self._setup.limits(), on_progress,
                device=self._setup.device.key, cancelled=self._stop.is_set,
                pauses=self._later(),
            )  # fmt: skip
        except BuildInterrupted:
            return
        except BuildFailed as error:
            self._on_event("plans", "", "not compared", str(error))
            return
        changed = [
            now
            for now, before in zip(map(self._setup.marked, found), plans, strict=True)
            if replace(now, state=before.state, reason=before.reason) != before
        ]
        if not changed:  # they were compared before
            return
        for plan in changed:
            self._library.learn(plan)
        self._loading.reprice(changed)
        told = f"{len(changed)} of {len(plans)} were close in time and took turns side by side"
        self._on_event("plans", "", "compared", told)

    def _later(self) -> Pauses | None:
        """For work that can wait; what several threads take is timed on the wall, and can't."""
        return self._pauses if self._setup.threads == 1 else None

    def _build(
        self,
        cache: ArtifactCache,
        folder: Path,
        total: int,
        spec: PlanSpec,
        pauses: Pauses | None = None,
    ) -> None:
        def on_progress(stage: str, share: float) -> None:
            self.progress = Progress(self._built, total, spec.key, stage, share)

        on_progress("starting", 0.0)
        try:
            built = build_plan(
                cache, folder, spec, self._setup.limits(), on_progress,
                device=self._setup.device.key, cancelled=self._stop.is_set, pauses=pauses,
            )  # fmt: skip
        except BuildInterrupted:
            return
        self._built += 1
        plan = self._library.put(self._setup.marked(built))
        self._on_event(spec.key, "proposed", plan.state.value, plan.reason)
        if plan.state is PlanState.VERIFIED:
            on_progress("loading", 1.0)
            self._loading.admit(plan)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
