"""`evolve.wrap`: from a model and an example of its inputs to a runtime that serves it."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evolve.admission import Admission, warm_batches
from evolve.brain import Brain, Workshop
from evolve.config import Config, WorkersConfig, load_config
from evolve.controller import Controller
from evolve.faults import Faults
from evolve.fleet import Fleet
from evolve.journal import Journal
from evolve.lane import Serving
from evolve.original import ORIGINAL, Original
from evolve.patterns import Patterns
from evolve.retraining import Retraining, live_twin
from evolve.runtime import Parts, Runtime
from evolve.savings import Savings
from evolve.scheduler import Scheduler, Tables
from evolve.slo import SLO
from evolve.tally import Tally
from evolve.traffic import Traffic
from evolve.watching import make_watch
from evolve.workers.process import ProcessWorker
from evolve.workers.thread import ThreadWorker
from policies.base import Policy
from policies.baselines import DEFAULT_CHOICE, RulePolicy, ThresholdPolicy
from policies.presets import DEFAULT
from policies.tactical import TacticalPolicy
from profiler.costs import CostTable
from profiler.flops import DynamicFlops
from profiler.signals import Window
from profiler.units import FingerprintDatabase, host_database
from supernet.capture import Capture, capture
from supernet.pausing import Pauses
from supernet.plans import PlanLibrary

if TYPE_CHECKING:
    from evolve.workers.base import Worker
    from profiler.fingerprint import DeviceFingerprint

__all__ = ["wrap"]


def wrap(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    slo: SLO | None = None,
    config: Config | Path | str | None = None,
    policy: Policy | None = None,
) -> Runtime:
    """Serves `model`, and keeps improving how it runs. The model itself is never changed.

    Blocks for the capture (about 1.5 s for a 22 M parameter encoder); the original model
    then answers at once, while plans are built, verified and measured beside it.

    Args:
        model: Any module, in eval mode. One that can't be captured is still served, by itself;
            `Runtime.status()["capture"]` says why.
        example_inputs: One call's arguments as a tuple (positional) or a dict (keywords), or
            a list of such calls that differ in batch size and length, from which it learns
            which dimensions vary. Requests longer than the longest example are answered by
            the original.
        slo: Deadline and largest error; default `SLO()`.
        config: Settings, or a YAML file of them; default `Config()`.
        policy: Chooses the rule's parameters each tick; default as `config.policy` says.

    Raises:
        TypeError, ValueError: An argument is wrong; the text names it and the remedy.
        ConfigError: The configuration file has a bad entry; the text names file and line.

    >>> import evolve, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval()
    >>> with evolve.wrap(model, (torch.zeros(1, 8),), config=evolve.Config().replace(
    ...     plans={"build": False})) as runtime:
    ...     runtime(torch.ones(3, 8)).shape
    torch.Size([3, 4])
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    slo = SLO() if slo is None else slo
    settings = _settings(config)
    chosen = _policy(settings) if policy is None else policy
    device = _device(model)
    captured = capture(model, example_inputs, max_rows=settings.plans.max_rows)
    runtime = _assemble(model, captured, device, slo, settings, chosen)
    runtime.start()
    return runtime


def _settings(config: Config | Path | str | None) -> Config:
    if config is None:
        return Config()
    return config if isinstance(config, Config) else load_config(config)


def _policy(config: Config) -> Policy:
    if config.policy.name == "ppo" and config.policy.path is not None:
        return TacticalPolicy.load(config.policy.path)
    return ThresholdPolicy() if config.policy.name == "threshold" else RulePolicy()


def _workers(config: WorkersConfig, cores: int) -> WorkersConfig:
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


def _device(model: torch.nn.Module) -> DeviceFingerprint:
    """The fingerprint of where the model lives, with its rates if this machine was measured."""
    tensor = next(iter(model.parameters()), next(iter(model.buffers()), None))
    kind = "nvidia" if tensor is not None and tensor.is_cuda else "cpu"
    index = tensor.get_device() if tensor is not None and tensor.is_cuda else 0
    # Measuring takes seconds and both cores: `evolve profile` does it, not a start.
    known = FingerprintDatabase(host_database().path, measure=False).fingerprints()
    devices = [device for device in known if device.kind == kind]
    return devices[index] if index < len(devices) else known[0]


def _flops(original: Original, device: DeviceFingerprint, threads: int) -> DynamicFlops | None:
    """None where FLOPs can't be counted, or the machine's peak was never measured."""
    counted = original.flops()
    if not counted or "fp32" not in device.matrix_gflop_per_s:
        return None
    cores = min(threads, max(1, device.cores))
    return DynamicFlops(counted, device.gflop_per_s("fp32", cores=cores))


def _assemble(
    model: torch.nn.Module,
    captured: Capture,
    device: DeviceFingerprint,
    slo: SLO,
    config: Config,
    policy: Policy,
) -> Runtime:
    """Every part made once, and introduced to the parts it talks to."""
    clock = time.monotonic
    workers = _workers(config.workers, device.cores)
    lanes, threads = workers.count or 1, workers.threads or 1
    journal = Journal(
        config.journal.path, device=device.key, keep=config.journal.keep,
        max_mib=config.journal.max_mib,
    )  # fmt: skip
    original = Original(model, captured)
    costs = CostTable(captured.grid)
    if timed := original.timings():
        costs.seed(ORIGINAL, timed)
    window = Window(slo_ms=slo.p99_ms, workers=lanes, clock=clock)
    savings = Savings(costs)
    flops = _flops(original, device, threads)
    tally = Tally(window, costs, flops, savings, Traffic(clock), lambda: clock() * 1e3)
    library = PlanLibrary()
    pauses = Pauses()
    scheduler = Scheduler(
        Tables(
            plans=(ORIGINAL,), cost_ms=costs.matrix([ORIGINAL]), lengths=captured.grid.lengths,
            tier=np.zeros(1, np.int64), cells_only=frozenset(), params=DEFAULT, lanes=lanes,
        ),
        limit=config.queue_limit, rate_per_s=window.arrival_per_s, now_ms=lambda: clock() * 1e3,
        on_engaged=lambda engaged: (pauses.hold if engaged else pauses.let_go)("serving"),
    )  # fmt: skip
    workshop = Workshop(
        captured, device, slo, config.plans, threads, isolated=config.workers.kind == "process"
    )
    # A lane tells of a fault, and the watch of a wrong answer, only once they run: when `faults`
    # below exists.
    licence, watch = make_watch(workshop, original, library, journal, pauses, lambda: faults)
    serving = Serving(
        scheduler, original, captured, tally, lambda *heard: faults.heard(*heard), licence, watch
    )

    def worker_said(worker: str, what: str) -> None:
        journal.append("worker", worker, reason=what)

    fleet = Fleet(
        lanes, serving, hire=partial(_hire, workers), said=worker_said,
        warm=partial(warm_batches, captured.signature, captured.guards, costs, slo.p99_ms),
    )  # fmt: skip

    def plan_said(plan: str, before: str, after: str, reason: str) -> None:
        journal.append(
            "plan", plan, before={"state": before}, after={"state": after}, reason=reason
        )

    def look() -> None:
        fleet.check()
        watch.look()

    patterns = Patterns(captured, device, workshop.open_cache, plan_said)
    controller = Controller(
        scheduler=scheduler, library=library, costs=costs, tally=tally, journal=journal,
        patterns=patterns, policy=policy, initial=DEFAULT_CHOICE,
        period_s=config.tick_ms / 1e3, clock=clock, check=look,
        pads=captured.signature.paddable,
    )  # fmt: skip
    faults = Faults(
        library, journal, replace=fleet.replace, unload=fleet.unload, refresh=controller.refresh
    )

    admission = Admission(
        library, costs, fleet, savings, slo_ms=slo.p99_ms, limit=config.plans.resident,
        refresh=controller.refresh, said=plan_said,
    )  # fmt: skip
    brain = Brain(workshop, library, admission, plan_said, pauses, patterns.find)
    retraining = Retraining(
        config.policy,
        controller,
        journal,
        partial(live_twin, slo, lanes, scheduler, tally, library),
        pauses,
    )
    parts = Parts(
        serving, fleet, library, controller, admission, brain, retraining, journal, pauses
    )
    return Runtime(slo, config, parts, clock)


def _hire(workers: WorkersConfig, name: str) -> Worker:
    if workers.kind == "thread":
        return ThreadWorker(name)
    return ProcessWorker(name, threads=workers.threads or 1, hang_timeout_s=workers.hang_timeout_s)
