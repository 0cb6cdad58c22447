"""A trained tactical policy: a small network (`policies.network`) over presets.

Two files in a folder, no pickle and no torch: `policy.json` (schema, names, presets, training
range, card, hash of the other file) and `policy.safetensors` (the arrays). The policy starts
from the default rule and falls back to it whenever it cannot know better.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Choice
from policies.network import Array, Network
from policies.observation import SIGNALS, Signal, encode, observation_names, observe
from policies.params import RuleParams
from policies.presets import DEFAULT, PRESETS

if TYPE_CHECKING:
    from profiler.signals import Signals

__all__ = ["PolicyFileError", "TacticalPolicy"]

SCHEMA = 3

_LEARNT = (slice(Signal.BALANCE, Signal.FUSED + 1), slice(Signal.SWITCH_MS, Signal.SWITCH_MS + 1))
"""Entries that a runtime learns while it serves, and that many simulations leave at 0."""


class PolicyFileError(ValueError):
    """A policy's files are missing, damaged, foreign or newer than this version."""


class TacticalPolicy:
    """Chooses among presets by a trained network; the default rule wherever in doubt.

    In doubt: a number of the network is not finite, an observation is not finite or outside the
    range seen in training, a preference is not finite. The reason then says which.

    One that was trained where no memory pattern or no cost of switching was known is shown none
    either: what it never knew is no reason to doubt it.
    """

    name = "ppo"

    def __init__(
        self,
        network: Network,
        presets: tuple[RuleParams, ...] = PRESETS,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        expected = len(observation_names(len(presets)))
        sizes = [a.shape for a in (network.mean, network.var, network.low, network.high)]
        if any(shape != (expected,) for shape in sizes):
            raise PolicyFileError(f"the normalisation must have {expected} entries, got {sizes}")
        width = expected
        for weight, bias in network.layers:
            if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
                raise PolicyFileError(
                    f"a layer must map {width} values, got weight {weight.shape}, bias {bias.shape}"
                )
            width = weight.shape[0]
        if not network.layers or width != len(presets):
            raise PolicyFileError(f"the network must rank {len(presets)} presets, got {width}")
        self._network, self._presets = network, presets
        self._names = observation_names(len(presets))
        self._positions = {preset.name: i for i, preset in enumerate(presets)}
        self._sane = network.sane
        known = (network.low != 0) | (network.high != 0)
        self._blind = [entries for entries in _LEARNT if not known[entries].any()]
        # Compiled before the first tick.
        encode(np.ones(SIGNALS), 0, np.empty(expected, np.float32))
        self.card: Mapping[str, Any] = card or {}

    @property
    def presets(self) -> tuple[RuleParams, ...]:
        """What it chooses among; 0 is where it falls back to."""
        return self._presets

    @property
    def network(self) -> Network:
        """The arrays the policy is made of."""
        return self._network

    def actions(self, seen: Array) -> NDArray[np.int64]:
        """Presets for many observations [E, D] at once, int64 [E]; 0 wherever in doubt."""
        network, seen = self._network, self._known(seen)
        best = network.logits(seen)
        slack = network.slack
        fine = ((seen >= network.low - slack) & (seen <= network.high + slack)).all(axis=1)
        fine &= np.isfinite(best).all(axis=1) & self._sane
        return np.where(fine, best.argmax(axis=1), 0)

    def choose(self, signals: Signals, current: Choice) -> Choice:
        if not self._sane:
            return _fallback("the policy holds numbers that are not finite")
        active = self._positions.get(current.params.name, 0)
        seen = self._known(observe(signals, active, len(self._presets)))
        if (entry := self._network.outside(seen)) is not None:  # true for NaN as well
            return _fallback(f"{self._names[entry]} = {seen[entry]:.3g} was never seen in training")
        logits = self._network.logits(seen)
        if not np.isfinite(logits).all():
            return _fallback("a preference is not finite")
        best = int(logits.argmax())
        scores = {p.name: float(v) for p, v in zip(self._presets, logits, strict=True)}
        lead = float(logits[best] - logits[0])
        reason = (
            "prefers the default rule"
            if best == 0
            else f"prefers {self._presets[best].name} by {lead:.2f}"
        )
        return Choice(self._presets[best], reason, scores)

    def _known(self, seen: Array) -> Array:
        """The observations [..., D] without what was unknown throughout the training."""
        if not self._blind:
            return seen
        blind = seen.copy()
        for entries in self._blind:
            blind[..., entries] = 0.0
        return blind

    def save(self, folder: Path) -> None:
        """Write both files; each is replaced as a whole."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        network = self._network
        arrays = {
            "mean": network.mean,
            "var": network.var,
            "low": network.low,
            "high": network.high,
        }
        for k, (weight, bias) in enumerate(network.layers):
            arrays |= {f"weight{k}": weight, f"bias{k}": bias}
        blob = save({k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()})
        header = {
            "kind": "evolve-tactical-policy",
            "schema": SCHEMA,
            "observations": list(self._names),
            "presets": [preset.to_json() for preset in self._presets],
            "clip": network.clip,
            "layers": len(network.layers),
            "sha256": hashlib.sha256(blob).hexdigest(),
            "card": dict(self.card),
        }
        _replace(folder / "policy.safetensors", blob)
        _replace(folder / "policy.json", json.dumps(header, indent=1).encode())

    @classmethod
    def load(cls, folder: str | Path) -> TacticalPolicy:
        """Read an exported policy. Raises PolicyFileError naming what is wrong and the remedy."""
        header, blob = _read(Path(folder))
        presets = _presets(header)
        if tuple(header.get("observations", ())) != observation_names(len(presets)):
            raise PolicyFileError(
                "policy.json: observations must be those of this version, got others; "
                "train and export the policy again"
            )
        try:
            from safetensors.numpy import load

            arrays = {k: np.asarray(v, np.float32) for k, v in load(blob).items()}
            layers = tuple(
                (arrays[f"weight{k}"], arrays[f"bias{k}"]) for k in range(int(header["layers"]))
            )
            network = Network(
                arrays["mean"],
                arrays["var"],
                float(header["clip"]),
                arrays["low"],
                arrays["high"],
                layers,
            )
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise PolicyFileError(f"{folder}: the policy is incomplete: {error!r}") from error
        return cls(network, presets, header.get("card"))


def _fallback(why: str) -> Choice:
    return Choice(DEFAULT, f"default rule: {why}")


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    try:
        header = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        blob = (folder / "policy.safetensors").read_bytes()
    except OSError as error:
        raise PolicyFileError(
            f"{folder}: must hold policy.json and policy.safetensors: {error.strerror}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise PolicyFileError(f"policy.json must be JSON: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != "evolve-tactical-policy":
        raise PolicyFileError("policy.json must be of kind 'evolve-tactical-policy'")
    if header.get("schema") != SCHEMA:
        raise PolicyFileError(
            f"policy.json: schema must be {SCHEMA}, got {header.get('schema')!r}; "
            "train and export the policy again with this version"
        )
    if hashlib.sha256(blob).hexdigest() != header.get("sha256"):
        raise PolicyFileError(
            "policy.safetensors must have the sha256 that policy.json states; the files are "
            "damaged or do not belong together: export the policy again"
        )
    return header, blob


def _presets(header: Mapping[str, Any]) -> tuple[RuleParams, ...]:
    rows = header.get("presets")
    if not isinstance(rows, list) or not rows:
        raise PolicyFileError(f"policy.json: presets must be a list of settings, got {rows!r}")
    try:
        presets = tuple(RuleParams.from_json(row) for row in rows)
    except (AttributeError, ValueError) as error:
        raise PolicyFileError(f"policy.json: {error}") from error
    return presets


def _replace(path: Path, data: bytes) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
