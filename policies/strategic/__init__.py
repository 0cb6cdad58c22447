"""Which sub-networks to measure, and which of them to hold: the strategic search.

- `genome`, `members`: a space of sub-networks as tuples of small integers.
- `search`: ask and tell; all a user needs. `settings`: how it spends its measurements.
- `choosing`: one generation, top to bottom: `seeding` (with `additive`), `predictor`, `screening`
  by `nsga2`.
- `evaluations`, `archive`: what was told, and what of it holds for the weights in force.
- `generation`: the record of a generation, for the journal.
- `tiers`: the set of sub-networks to hold as quality tiers.

Names are loaded on first use: DEAP is imported with `search` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from policies.strategic.additive import Additive, best_under
    from policies.strategic.evaluations import Evaluation, Objectives
    from policies.strategic.generation import Generation
    from policies.strategic.genome import Gene, Genome, Rule, Space
    from policies.strategic.predictor import Predictor
    from policies.strategic.search import StrategicSearch
    from policies.strategic.settings import SearchSettings
    from policies.strategic.tiers import TierSet, choose_tiers
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "additive": "Additive best_under",
            "evaluations": "Evaluation Objectives",
            "generation": "Generation",
            "genome": "Gene Genome Rule Space",
            "predictor": "Predictor",
            "search": "StrategicSearch",
            "settings": "SearchSettings",
            "tiers": "TierSet choose_tiers",
        },
    )

__all__ = [
    "Additive",
    "Evaluation",
    "Gene",
    "Generation",
    "Genome",
    "Objectives",
    "Predictor",
    "Rule",
    "SearchSettings",
    "Space",
    "StrategicSearch",
    "TierSet",
    "best_under",
    "choose_tiers",
]
