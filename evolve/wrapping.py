"""`evolve.wrap`: from a model and an example of its inputs to a runtime that serves it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evolve.config import Config, load_config
from evolve.data_plane.ambience import plain
from evolve.data_plane.reception import Reception
from evolve.journal.journal import Journal
from evolve.lifecycle.assembly import Assembly
from evolve.lifecycle.capturing import can_be_beside, capture_here
from evolve.lifecycle.changes import Changes
from evolve.lifecycle.revisions import Revisions
from evolve.lifecycle.upkeep import Upkeep
from evolve.monitoring.stats import Counts
from evolve.runtime import Runtime
from evolve.slo import SLO
from policies.base import Policy
from policies.baselines import RulePolicy, ThresholdPolicy
from policies.tactical import TacticalPolicy
from profiler.units import FingerprintDatabase, host_database
from supernet.capture.subject import Wishes, begin

if TYPE_CHECKING:
    from profiler.fingerprint import DeviceFingerprint

__all__ = ["wrap"]


@plain()  # a model is learnt as it is, whatever is in force around this call
def wrap(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    slo: SLO | None = None,
    config: Config | Path | str | None = None,
    policy: Policy | None = None,
    batchable: bool | None = None,
    paddable: bool | None = None,
    lengths: Sequence[int] | None = None,
) -> Runtime:
    """Serves `model`, and keeps improving how it runs. The model itself is never changed.

    Waits up to `capture.wait_s` (2 s) for the model to be captured, then returns: the original
    model answers at once, while the capture goes on and plans are built, verified and measured
    beside it. A model that is changed later on is noticed and captured again.

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
        batchable: False forbids requests to share a batch. True demands it where the graph does not
            prove rows independent; experiments that refute it, then, are a `ValueError`.
        paddable: The same for padding a request to the length of another.
        lengths: The only lengths that plans and batches are for; others go to the original alone.

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
    began_s = time.monotonic()
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    slo = SLO() if slo is None else slo
    settings = _settings(config)
    chosen = _policy(settings) if policy is None else policy
    device = _device(model)
    wishes = Wishes(batchable, paddable, None if lengths is None else tuple(lengths))
    subject = begin(model, example_inputs, wishes)
    subject.answer(settings.capture.wait_s)
    journal = Journal(
        settings.journal.path, device=device.key, keep=settings.journal.keep,
        max_mib=settings.journal.max_mib,
    )  # fmt: skip

    reception = Reception(slo, journal, time.monotonic)
    revisions = Revisions(journal, reception, freezes=settings.freeze)
    changes = Changes(getattr(model, "_orig_mod", model))
    assembly = Assembly(
        model, wishes, device, slo, settings, chosen, journal, Counts(),
        checks=(changes.check, revisions.check), lost=changes.lost,
        callbacks=revisions.callbacks, computing=revisions.computing,
        adoptions=revisions.adoptions,
    )  # fmt: skip
    runtime = Runtime(assembly, revisions, reception)
    beside = can_be_beside(subject)
    upkeep = Upkeep(assembly, changes, example_inputs, revisions.put, beside=beside)
    runtime.keep_up(upkeep)
    if not beside or subject.obstacle is not None:  # the latter takes no time
        upkeep.serve_here(capture_here(subject, settings.plans.max_rows))
        return runtime
    meanwhile = upkeep.pending("it is being captured beside serving")
    meanwhile.serving.scheduler.warm()  # ahead of the capture, which would want the CPU as well
    upkeep.start(subject)
    upkeep.wait(max(0.0, began_s + settings.capture.wait_s - time.monotonic()))
    upkeep.serve_meanwhile(meanwhile)
    if upkeep.refused is not None:
        runtime.close()
        raise upkeep.refused
    return runtime


def _settings(config: Config | Path | str | None) -> Config:
    if config is None:
        return Config()
    return config if isinstance(config, Config) else load_config(config)


def _policy(config: Config) -> Policy:
    if config.policy.name == "ppo" and config.policy.path is not None:
        return TacticalPolicy.load(config.policy.path)
    return ThresholdPolicy() if config.policy.name == "threshold" else RulePolicy()


def _device(model: torch.nn.Module) -> DeviceFingerprint:
    """The fingerprint of where the model lives, with its rates if this machine was measured."""
    tensor = next(iter(model.parameters()), next(iter(model.buffers()), None))
    kind = "nvidia" if tensor is not None and tensor.is_cuda else "cpu"
    index = tensor.get_device() if tensor is not None and tensor.is_cuda else 0
    # Measuring takes seconds and both cores: `evolve profile` does it, not a start.
    known = FingerprintDatabase(host_database().path, measure=False).fingerprints()
    devices = [device for device in known if device.kind == kind]
    return devices[index] if index < len(devices) else known[0]
