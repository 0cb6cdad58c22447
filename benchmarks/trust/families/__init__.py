"""Generators of the corpus, a file for each kind. `FAMILIES` are all of them, by name."""

from __future__ import annotations

from benchmarks.trust.families import (
    coupled,
    errors,
    independent,
    integers,
    moving,
    nonfinite,
    padded,
    stateful,
)

__all__ = ["FAMILIES"]

_FILES = (coupled, independent, padded, integers, errors, stateful, nonfinite, moving)
_ALL = [family for file in _FILES for family in file.FAMILIES]

# The kind belongs to the name: "mean" is one thing of a padded sequence and another of NaNs.
FAMILIES = {f"{family.kind}/{family.name}": family for family in _ALL}
