"""The living system: wraps a model, serves it, and keeps improving how it runs.

- `wrap` makes a `Runtime`; `slo` says what is asked of it, `config` how it is set up.
- `data_plane`, one request: `runtime` → `reception` → `scheduler` → `lane` → `workers` → `promise`.
- `lifecycle`: what serves now, and what comes after it: `revisions`, of one `revision` each.
- `control_plane`, one tick: `controller`. One plan: `plan_builder` → `plan_loading`.
- `evolution`: smaller versions of a model, searched, trained and judged, by generations.
- `rollout`: how what answers otherwise than the model comes to serve, as pure functions.
- `watch`: live answers beside the original's. `monitoring`: what happened. `journal`: what was
  decided, and why.
- `cli` is the command `evolve`, `demo` its main example.

Names are loaded on first use: the command line and worker processes load no torch for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from evolve.config import Config, ConfigError, load_config
    from evolve.control_plane.tiers import Tier
    from evolve.data_plane.served_by import ServedBy
    from evolve.errors import DeadlineExceeded, EvolveError, QueueFull, RuntimeClosed
    from evolve.journal.decision import Decision
    from evolve.journal.journal import Journal
    from evolve.process_end import drain_on_sigterm
    from evolve.runtime import Runtime
    from evolve.slo import SLO
    from evolve.wrapping import wrap
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "config": "Config ConfigError load_config",
            "control_plane.tiers": "Tier",
            "data_plane.served_by": "ServedBy",
            "errors": "DeadlineExceeded EvolveError QueueFull RuntimeClosed",
            "journal.decision": "Decision",
            "journal.journal": "Journal",
            "process_end": "drain_on_sigterm",
            "runtime": "Runtime",
            "slo": "SLO",
            "wrapping": "wrap",
        },
    )

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
    "ServedBy",
    "Tier",
    "drain_on_sigterm",
    "load_config",
    "wrap",
]
