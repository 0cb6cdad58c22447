"""What the inputs are good for: too few or too narrow ones teach less, and that is said."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from supernet.distillation.batches import distinct_rows
from supernet.distillation.learning.teacher import Teacher
from supernet.distillation.settings import DistillConfig
from supernet.elastic.supernet import Supernet

__all__ = ["ambition", "check_weights"]

LEAST_ROWS = 8
FEW_ROWS = 512
PASSES = 20
"""How often few or narrow inputs are gone through: what a model learns of them beyond that are
those inputs, not the original."""
_ALIKE = 0.01


def ambition(
    net: Supernet, config: DistillConfig, teacher: Teacher
) -> tuple[DistillConfig, tuple[str, ...]]:
    """The settings that fit the inputs, and why they are not those that were asked for."""
    batches = teacher.batches
    rows, distinct = distinct_rows(net.signature, batches)
    if distinct < LEAST_ROWS:
        raise ValueError(
            f"inputs must hold at least {LEAST_ROWS} different rows to learn from, got {distinct}; "
            "give more of what the model will be asked"
        )
    notes = []
    if distinct < FEW_ROWS:
        notes.append(f"few inputs, {distinct} different rows of {FEW_ROWS}")
    if distinct * 2 < rows:
        notes.append(f"narrow inputs, {distinct} different among {rows} rows")
    if _are_alike(teacher):
        notes.append("narrow inputs, the original answers nearly the same to all of them")
    if not notes:
        return config, ()
    most = PASSES * max(1, len(batches) * distinct // rows)
    layers = max(1, len(teacher.layers))
    smaller = replace(
        config,
        global_steps=min(config.global_steps, most),
        local_steps=min(config.local_steps, most * layers),
    )
    if smaller != config:
        notes.append(f"{PASSES} times through them at most")
    return smaller, tuple(notes)


def _are_alike(teacher: Teacher) -> bool:
    """Whether what tells answers apart is next to nothing beside what they share."""
    first = [teacher.answers(index) for index in range(min(4, len(teacher.batches)))]
    found = [
        spread.single < _ALIKE * sum(map(_size, tensors)) / len(tensors)
        for spread, tensors in zip(teacher.spread, zip(*first, strict=True), strict=True)
        if spread.single
    ]
    return bool(found) and all(found)


def _size(tensor: Tensor) -> float:
    return float(tensor.float().square().sum(-1).mean()) if tensor.dim() else 0.0


def check_weights(net: Supernet) -> None:
    """A `ValueError` where a weight of the supernet is not finite: nothing can be learnt then."""
    for name, weight in {**net.original, **net.weights}.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            kind = "NaN" if bool(weight.isnan().any()) else "infinity"
            raise ValueError(f"weights must be finite, got {kind} in {name!r}; repair the model")
