"""The control plane's second part: a better tactical policy, trained on the traffic of late.

    traffic, cost table ──▶ twin.npz ──▶ process: train, judge ──▶ policy and verdict ──▶ follow

One thread waits; training happens in a niced process of its own (`retrain_job`), so that killing it
costs nothing but that training; it stands still while requests are served. What comes of each
attempt is in the journal.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evolve.control_plane.retrain_job import RetrainRequest
from evolve.journal.decision import NOTHING
from policies.tactical import TacticalPolicy
from supernet.jobs.errors import JobFailed, JobInterrupted
from supernet.jobs.process import Terms, run_job
from supernet.tiers import accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evolve.config import PolicyConfig
    from evolve.control_plane.controller import Controller
    from evolve.data_plane.scheduler import Scheduler
    from evolve.journal.journal import Journal
    from evolve.monitoring.stats import Stats
    from evolve.slo import SLO
    from sims.twin import Twin
    from supernet.jobs.pausing import Pauses
    from supernet.plans import PlanLibrary

__all__ = ["RawTwin", "Retraining", "live_twin", "raw_twin"]

BUDGET_S = 1800.0
MIN_TRAFFIC_S = 150.0
"""Six tenths to train on and the rest, at least five episodes of 10 s, to judge by."""


class Retraining:
    """Tries for a better policy every `policy.retrain_every_s`; idle where that is 0.

    Args:
        config: When, and how long.
        controller: Follows a policy that is promoted.
        journal: Is told what came of each attempt.
        twin: The service as it is believed to be now; None where nothing came yet.
        pauses: Hold training up while requests are served.
    """

    def __init__(
        self,
        config: PolicyConfig,
        controller: Controller,
        journal: Journal,
        twin: Callable[[], Twin | None],
        pauses: Pauses,
    ) -> None:
        self._config, self._controller, self._journal = config, controller, journal
        self._twin, self._pauses = twin, pauses
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retraining", daemon=True)
        self.attempts = 0
        self._incumbent = config.path if config.name == "ppo" else None
        self._kept = ExitStack()

    def start(self) -> None:
        if self._config.retrain_every_s > 0:
            self._thread.start()

    def stop(self) -> None:
        """Ends the training under way and starts no other."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._kept.close()

    def _run(self) -> None:
        while not self._stop.wait(self._config.retrain_every_s):
            try:
                self.attempt()
            except JobInterrupted as stopped:
                self._say(f"training was stopped: {stopped}", applied=False)
            except Exception as error:  # the policy in force goes on
                self._say(f"no policy was trained: {type(error).__name__}: {error}", applied=False)

    def attempt(self) -> bool:
        """Train and judge once; whether the new policy took over."""
        twin = self._twin()
        if twin is None or twin.traffic.seconds < MIN_TRAFFIC_S:
            return False
        self.attempts += 1
        before = self._controller.policy.name
        with ExitStack() as scratch:
            folder = Path(
                scratch.enter_context(tempfile.TemporaryDirectory(prefix="evolve-policy-"))
            )
            twin.save(folder)
            try:
                verdict = self._trained(folder)
            except JobFailed as failed:
                self._say(f"no policy was trained: {failed}", applied=False)
                return False
            promoted = bool(verdict["promoted"])
            if promoted:  # its folder stays for as long as it is the one to beat
                self._controller.follow(TacticalPolicy.load(folder / "policy"))
                self._incumbent = folder / "policy"
                self._kept.close()
                self._kept = scratch.pop_all()
        self._say(
            str(verdict["reason"]), applied=promoted, before=before,
            after=self._controller.policy.name, scores=_scores(verdict),
            seen={"requests": float(len(twin.traffic)), "traffic_s": twin.traffic.seconds},
        )  # fmt: skip
        return promoted

    def _trained(self, folder: Path) -> dict[str, Any]:
        incumbent = str(self._incumbent or "")
        request = RetrainRequest(str(folder), incumbent, self._config.retrain_steps, self.attempts)
        terms = Terms(folder, BUDGET_S, cancelled=self._stop.is_set, pauses=self._pauses)
        return run_job(request, terms)

    def _say(
        self,
        reason: str,
        *,
        applied: bool,
        before: str = "",
        after: str = "",
        scores: Mapping[str, float] = NOTHING,
        seen: Mapping[str, float] = NOTHING,
    ) -> None:
        self._journal.append(
            "policy", "tactical", before={"policy": before} if before else {},
            after={"policy": after} if after else {}, reason=reason, scores=scores, seen=seen,
            applied=applied,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class RawTwin:
    """The service as its cost table and its last quarter of an hour tell it; `latencies_ms` [A], of
    its last answers, by which it is still to be calibrated."""

    twin: Twin
    latencies_ms: NDArray[np.float64]

    def save(self, folder: Path) -> None:
        """For `Twin.load`, which calibrates it: in another process, where it disturbs nobody."""
        self.twin.save(folder, self.latencies_ms)


def live_twin(
    slo: SLO, workers: int, scheduler: Scheduler, stats: Stats, library: PlanLibrary
) -> Twin | None:
    """The service as it is believed to be now; None where nothing came yet."""
    raw = raw_twin(slo, workers, scheduler, stats, library)
    return None if raw is None else raw.twin.calibrated(raw.latencies_ms)


def raw_twin(
    slo: SLO, workers: int, scheduler: Scheduler, stats: Stats, library: PlanLibrary
) -> RawTwin | None:
    """The same before it is calibrated, which plays the traffic several times."""
    from sims.traces import NoArrivals
    from sims.twin import CALIBRATION_S, Measured, Twin

    tables = scheduler.tables
    plans = [library.get(key) for key in tables.plans]  # the original is none of them
    try:
        traffic = stats.traffic.trace()
    except NoArrivals:
        return None
    measured = Measured(
        # What overload costs: with all lanes busy.
        tables.cost_ms * tables.slowdowns[-1], np.array(tables.lengths, np.float64), slo.p99_ms,
        workers, tier=np.array(tables.tier),
        accuracy=np.array([1.0 if plan is None else accuracy(plan) for plan in plans]),
        switch_ms=stats.window.switch_ms,
        pattern=None if (pattern := stats.window.pattern) is None else pattern.values,
    )  # fmt: skip
    twin = Twin.of(measured, traffic, ratios=stats.traffic.ratios(CALIBRATION_S))
    return RawTwin(twin, stats.traffic.latencies_ms(CALIBRATION_S))


def _scores(verdict: dict[str, Any]) -> dict[str, float]:
    return {
        "points_over_rule": float(verdict["over_rule"]["mean"]),
        "points_over_rule_low": float(verdict["over_rule"]["low"]),
        "points_over_incumbent": float(verdict["over_incumbent"]["mean"]),
        "worst_regime_points": float(verdict["worst"][1]),
    }
