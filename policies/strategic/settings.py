"""Settings of the strategic search: how it spends its measurements (decision 0029)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SearchSettings"]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a search spends its measurements.

    `initial`: how many genomes are measured before predictions choose, half of them at least at
    random. `population` genomes live in NSGA-II for `inner_generations` on predictions, between two
    measured generations. A share `explore` of what is chosen by prediction goes to genomes that
    would be best if they were better than predicted by their standard error. `bounds`: latency
    bounds for which the additive model is solved.
    """

    population: int = 64
    inner_generations: int = 12
    explore: float = 0.25
    bounds: int = 8
    initial: int = 16

    def __post_init__(self) -> None:
        least = {"population": 4, "inner_generations": 1, "bounds": 1, "initial": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        if not 0.0 <= self.explore <= 1.0:
            raise ValueError(f"explore must be from 0 to 1, got {self.explore}")
