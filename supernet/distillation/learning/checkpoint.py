"""A distillation on disk: whole or not at all, and it goes on from there bit for bit.

::

    FOLDER/<n>/   state.json             phase, step, seconds
                  weights.safetensors    optimiser.safetensors
                  local.safetensors      what the local phase came to, once that is over
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.distillation.settings import Phase
from supernet.jobs.checkpoints import Checkpoints

__all__ = ["Checkpoint", "State", "identity", "load", "save", "tensors_of", "to_optimiser"]

_TENSORS = ("weights", "optimiser", "local")


@dataclass(frozen=True, slots=True)
class State:
    """Where a training is. `began_s`: of `elapsed_s` what the phases before this one took; `bad`:
    steps in a row without a finite loss; `loss`: the running mean; `local_steps`: those of the
    local phase, once that is over."""

    phase: Phase = "local"
    step: int = 0
    elapsed_s: float = 0.0
    began_s: float = 0.0
    bad: int = 0
    loss: float | None = None
    local_steps: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state and its tensors by name. `local`: None until the local phase is over."""

    of: str
    state: State
    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    local: Mapping[str, Tensor] | None


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the place of older ones; an `OSError` leaves those as they are."""
    from safetensors.torch import save as to_bytes

    def write(stage: Path) -> None:
        for name in _TENSORS:
            tensors = getattr(checkpoint, name)
            if tensors is not None:
                own = {key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}
                _write(stage / f"{name}.safetensors", to_bytes(own))
        _write(stage / "state.json", json.dumps(asdict(checkpoint.state)).encode())

    _kept(folder, checkpoint.of).add(write)


def load(folder: Path, of: str) -> Checkpoint | None:
    """The last checkpoint of this training, None where there is none yet.

    Of another one, of other weights, settings, inputs or sub-networks, it is a `ValueError`.
    """
    from safetensors.torch import load_file

    found = _kept(folder, of).newest()
    if found is None:
        if any(path.name.isdecimal() for path in folder.glob("*")):
            raise ValueError(
                "folder must hold a checkpoint of the same model, settings, sub-networks and "
                f"inputs, or none, got {folder}; give another folder or remove it"
            )
        return None
    files = {name: found / f"{name}.safetensors" for name in _TENSORS}
    tensors = {name: load_file(path) for name, path in files.items() if path.exists()}
    state = State(**json.loads((found / "state.json").read_text(encoding="utf-8")))
    return Checkpoint(of, state, tensors["weights"], tensors["optimiser"], tensors.get("local"))


def _kept(folder: Path, of: str) -> Checkpoints:
    return Checkpoints(folder, {"distillation": of})


def identity(weights: Mapping[str, Tensor], *parts: Any) -> str:
    """One line that tells trainings apart: of their first weights and of what else decides them."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        raw = weights[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def tensors_of(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The optimiser's tensors as ``<parameter>|<what>``."""
    return {
        f"{name}|{what}": tensor
        for name, parameter in parameters.items()
        for what, tensor in optimiser.state.get(parameter, {}).items()
    }


def to_optimiser(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put what ``tensors_of`` gave into a fresh optimiser."""
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("|")
        optimiser.state[parameters[name]][what] = tensor.clone()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
