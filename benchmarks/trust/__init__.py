"""Is there a model and a request that is answered wrong without a word?

A corpus of small models, generated from a seed, is served with plans of every backend; requests
that are not like the examples come in bursts, one by one and from several threads; every answer
is held against a twin of the model that is asked alone.

- `families`: generators of models, a file for each kind. `nets`, `hostile`, `draw`: what they
  are made of. `corpus`: which of them a run tries.
- `serve` (with `sending`) serves one; `judge` compares. `child` and `processes`: a process for
  every few models, so that one that dies costs one model. `report`: what came of it.
"""

from __future__ import annotations

__all__ = ["main"]

from benchmarks.trust.command import main
