"""The living system: wraps a model, serves it, and keeps improving how it runs.

- `wrap` makes a `Runtime`; `slo` says what is asked of it, `config` how it is set up.
- `data_plane`, one request: `runtime` → `reception` → `scheduler` → `lane` → `workers` → `promise`.
- `lifecycle`: what serves now, and what comes after it: `revisions`, of one `revision` each.
- `control_plane`, one tick: `controller`. One plan: `plan_builder` → `plan_loading`.
- `watch`: live answers beside the original's. `monitoring`: what happened. `journal`: what was
  decided, and why.
- `cli` is the command `evolve`, `demo` its main example.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolve.config import Config, ConfigError, load_config
    from evolve.errors import DeadlineExceeded, EvolveError, QueueFull, RuntimeClosed
    from evolve.journal.decision import Decision
    from evolve.journal.journal import Journal
    from evolve.process_end import drain_on_sigterm
    from evolve.runtime import Runtime
    from evolve.slo import SLO
    from evolve.wrapping import wrap

__all__ = [
    "SLO",
    "Config",
    "ConfigError",
    "DeadlineExceeded",
    "Decision",
    "EvolveError",
    "Journal",
    "QueueFull",
    "Runtime",
    "RuntimeClosed",
    "drain_on_sigterm",
    "load_config",
    "wrap",
]

_HOME = {
    "SLO": "evolve.slo",
    "Config": "evolve.config",
    "ConfigError": "evolve.config",
    "DeadlineExceeded": "evolve.errors",
    "Decision": "evolve.journal.decision",
    "EvolveError": "evolve.errors",
    "Journal": "evolve.journal.journal",
    "QueueFull": "evolve.errors",
    "Runtime": "evolve.runtime",
    "RuntimeClosed": "evolve.errors",
    "drain_on_sigterm": "evolve.process_end",
    "load_config": "evolve.config",
    "wrap": "evolve.wrapping",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the command line and worker processes don't load torch for nothing.
    if name not in _HOME:
        raise AttributeError(f"module 'evolve' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
