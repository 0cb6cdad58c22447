"""The settings of a runtime: frozen values with their rules, from code or from a YAML file.

Each setting states its default, its meaning and its limits once, below; the checks, the error
messages and docs/configuration.md all come from that statement.

>>> Config().replace(workers={"count": 2}, tick_ms=50).workers.count
2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from evolve.config.rules import ConfigError, fitting, hint_of, option, unknown

__all__ = [
    "CaptureConfig",
    "Config",
    "EvolutionConfig",
    "JournalConfig",
    "PlansConfig",
    "PolicyConfig",
    "RolloutConfig",
    "WorkersConfig",
]

BACKENDS = ("fused", "onnxruntime", "openvino", "aoti", "eager")
PRECISIONS = ("fp32", "mixed", "int8", "bf16")
POLICIES = ("rule", "threshold", "ppo")


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """Who runs the batches."""

    kind: str = option(
        "thread",
        "`thread`: in this process, for notebooks and drop-in use. `process`: one process each, "
        "so that a native crash kills a worker and not the service.",
        choices=("thread", "process"),
    )
    count: int | None = option(
        None,
        "How many batches may run at once.",
        low=1,
        high=1024,
        unset="one for thread workers, one per physical core for process workers",
    )
    threads: int | None = option(
        None,
        "Threads inside each worker.",
        low=1,
        high=1024,
        unset="one for process workers, all cores for a thread worker",
    )
    hang_timeout_s: float | None = option(
        None,
        "A process worker that gives no answer for so many seconds is killed and its requests "
        "are answered by the original model.",
        low=0.1,
        high=86_400,
        unset="8, or four times the SLO's p99 where that is longer",
    )

    def __post_init__(self) -> None:
        _check(self, "workers.")


@dataclass(frozen=True, slots=True)
class PlansConfig:
    """Which ways of running the model are built, and where they are kept."""

    backends: tuple[str, ...] | None = option(
        None,
        "Backends to build plans with.",
        choices=BACKENDS,
        unset="all that are installed",
    )
    precisions: tuple[str, ...] = option(
        PRECISIONS,
        "Precisions to try; those that a backend or the machine does not offer are passed over, "
        "and those over the SLO's error limit are never admitted.",
        choices=PRECISIONS,
    )
    only: tuple[str, ...] | None = option(
        None,
        "Keys of plans, as `evolve plans` and the journal print them: no other is built.",
        unset="all that backends and precisions allow",
    )
    build: bool = option(True, "Whether to build plans at all; without, the original serves.")
    search: bool = option(
        False,
        "Whether to search, once the usual plans are built, for fusions and precisions of this "
        "very model that beat them somewhere. Takes about a minute, once per machine; with workers "
        "of one thread only while no request is served, so that a saturated service never gets it.",
    )
    budget_s: float = option(
        300.0, "Seconds that building and measuring one plan may take.", low=1, high=86_400
    )
    cache_dir: Path | None = option(  # noqa: RUF009 (a field, not a shared value)
        None,
        "Where built plans are kept, readable by the owner only.",
        unset="`evolve` in the platform's cache folder, or among temporary files without one",
    )
    max_rows: int = option(16, "Largest batch, in rows.", low=1, high=4096)
    resident: int = option(16, "Plans kept loaded at once.", low=1, high=1024)

    def __post_init__(self) -> None:
        _check(self, "plans.")


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    """How the model is taken apart, beside serving."""

    wait_s: float = option(
        2.0,
        "Seconds that `wrap` waits for the capture; after them the original model serves, and the "
        "capture goes on beside it.",
        low=0,
        high=86_400,
    )
    limit_s: float = option(
        120.0,
        "Seconds after which a capture is given up and the original model serves for good.",
        low=0.1,
        high=86_400,
    )
    still_s: float = option(
        3.0,
        "Seconds for which moved weights must have been still before they are captured again. "
        "Weights that keep moving are waited for ever longer.",
        low=0,
        high=86_400,
    )

    def __post_init__(self) -> None:
        _check(self, "capture.")


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Who sets the dispatch rule's parameters at each tick."""

    name: str = option(
        "rule",
        "`rule`: the throughput-tiered rule with early drop. "
        "`threshold`: presets by load with hysteresis. `ppo`: a trained policy.",
        choices=POLICIES,
    )
    path: Path | None = option(  # noqa: RUF009
        None, "Folder of an exported policy, for `ppo`.", unset="none; `ppo` needs one"
    )
    retrain_every_s: float = option(
        0.0,
        "Seconds between two attempts to train a better policy, in a niced process of its own, on "
        "the traffic seen of late; it serves only if it wins in pairs on traffic held back. "
        "0: never. Training goes on only while no request is served.",
        low=0,
        high=604_800,
    )
    retrain_steps: int = option(
        150_000, "Environment steps of one such training.", low=1, high=100_000_000
    )

    def __post_init__(self) -> None:
        _check(self, "policy.")
        if self.name == "ppo" and self.path is None:
            raise ConfigError(
                "policy.path must be the folder of an exported policy when policy.name is 'ppo', "
                "got nothing; `evolve train --out DIR` makes one"
            )


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Where the decisions are recorded."""

    path: Path | None = option(  # noqa: RUF009
        None, "File of the journal.", unset="kept in memory only"
    )
    keep: int = option(1000, "Decisions kept in memory.", low=1, high=1_000_000)
    max_mib: float = option(
        256.0,
        "Size in MiB at which the file is renamed to `PATH.1` (replacing an older one) and "
        "begun anew.",
        low=0.01,
        high=1_048_576,
    )

    def __post_init__(self) -> None:
        _check(self, "journal.")


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """How an adopted sub-network comes to serve: in shadow, as a canary, in full."""

    samples: int = option(
        64,
        "Answers of it that are compared with the original's in each stage before the next.",
        low=1,
        high=1_000_000,
    )
    canary_share: float = option(
        0.1, "Share of the requests that a canary may answer.", low=0.001, high=1
    )

    def __post_init__(self) -> None:
        _check(self, "rollout.")


@dataclass(frozen=True, slots=True)
class EvolutionConfig:
    """How a runtime finds sub-networks by itself; only where the SLO's min_quality is below 1."""

    every_s: float = option(
        300.0,
        "Seconds between two generations: each measures sub-networks of the model on live inputs, "
        "trains them towards it, in a niced process of its own while no request is served, and "
        "adopts what is worth it. 0: never.",
        low=0,
        high=604_800,
    )
    budget_s: float = option(
        120.0, "Seconds that measuring and training may take in one.", low=1, high=86_400
    )
    most_tiers: int = option(2, "Sub-networks of its own finding at once.", low=1, high=16)
    reservoir: int = option(
        512,
        "Requests whose inputs are kept, in memory alone, to learn from: a sample of late ones. "
        "0: none are, and nothing is searched.",
        low=0,
        high=1_000_000,
    )
    reservoir_mib: float = option(64.0, "MiB that they take at most.", low=0.001, high=1_048_576)
    min_inputs: int = option(
        128, "Requests kept without which a generation is skipped.", low=1, high=1_000_000
    )

    def __post_init__(self) -> None:
        _check(self, "evolution.")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a runtime. Every one has a default; nothing is read from the environment."""

    workers: WorkersConfig = field(default_factory=WorkersConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    plans: PlansConfig = field(default_factory=PlansConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    tick_ms: float = option(
        100.0, "Milliseconds between two choices of the policy.", low=1, high=60_000
    )
    queue_limit: int = option(
        4096, "Requests that may wait; beyond it new ones are refused.", low=1, high=1_000_000
    )
    freeze: bool = option(
        True,
        "Whether Python's collector leaves alone what lives as long as the service (gc.freeze). "
        "Who holds a runtime in a reference cycle must close it then.",
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        _check(self, "")

    def replace(self, **changes: object) -> Config:
        """A copy with other settings; a section takes its own class or a mapping of changes.

        >>> Config().replace(policy={"name": "threshold"}, seed=7).policy.name
        'threshold'
        """
        return cast("Config", _replaced(self, changes, ""))


def _check(section: Any, prefix: str) -> None:
    for item in fields(section):
        value = getattr(section, item.name)
        if item.default is MISSING:
            owner = hint_of(type(section), item.name)[0]
            if not isinstance(value, owner):
                raise ConfigError(f"{item.name} must be {owner.__name__}(...), got {value!r}")
        else:
            fit = fitting(type(section), item, prefix + item.name, value)
            object.__setattr__(section, item.name, fit)


def _replaced(section: Any, changes: Mapping[str, object], prefix: str) -> Any:
    known = tuple(item.name for item in fields(section))
    values = {name: getattr(section, name) for name in known}
    for key, value in changes.items():
        if key not in values:
            raise ConfigError(unknown(key, known, prefix))
        if isinstance(value, Mapping) and hasattr(type(values[key]), "__dataclass_fields__"):
            value = _replaced(values[key], value, f"{prefix}{key}.")
        values[key] = value
    return type(section)(**values)
