"""Measured runs of language models: read, checked against physics, split, and priced."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sims.devices.llms import LLMS
from sims.devices.model import Fit, Specs, Work
from sims.devices.models import Transformer, decode, prefill, resident_rows

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SEED = 0
HELD_OUT = 0.25


class Measurement(NamedTuple):
    """One measured run: `length` tokens read and as many written, by a batch of `rows`."""

    model: str
    devices: int
    length: int
    rows: int
    ms: float

    @property
    def configuration(self) -> tuple[str, int, int]:
        """What is held out whole."""
        return (self.model, self.rows, self.length)


@dataclass(frozen=True, slots=True)
class Batches:
    """Measured runs as arrays [N], ready to be priced with any `Fit`."""

    first: Work
    step: Work
    devices: Floats
    waves: Floats
    length: Floats
    ms: Floats

    def predicted_ms(self, fit: Fit, specs: Specs) -> Floats:
        """Milliseconds [N]."""
        first = fit.latency_ms(specs, self.first, self.devices)
        step = fit.latency_ms(specs, self.step, self.devices)
        return np.asarray(self.waves * (first + self.length * step))


def read_measurements(path: Path, hardware: str, framework: str) -> list[Measurement]:
    """The rows of one device and framework, in the file's order; models need to be in `LLMS`."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Measurement(
                record["Model"].split("/")[-1],
                int(record["Num of Hardware"]),
                int(record["Input Output Length"]),
                int(record["Batch Size"]),
                float(record["Latency"]) * 1e3,
            )
            for record in csv.DictReader(file)
            if (record["Hardware"], record["Framework"]) == (hardware, framework)
        ]


def batches(rows: Sequence[Measurement], memory_gib: float) -> Batches:
    """The work of `rows` on devices of `memory_gib`; what does not fit runs in turns."""
    firsts, steps, waves = [], [], []
    for row in rows:
        model = LLMS[row.model]
        together = min(float(row.rows), _resident(memory_gib, model, row))
        firsts.append(prefill(model, together, row.length))
        steps.append(decode(model, together, 1.5 * row.length))
        waves.append(row.rows / together)
    columns = np.array([(row.devices, row.length, row.ms) for row in rows], dtype=np.float64).T
    return Batches(_stack(firsts), _stack(steps), columns[0], np.array(waves), *columns[1:])


def possible(rows: Sequence[Measurement], specs: Specs) -> list[Measurement]:
    """`rows` without those faster than the published peaks allow: runs that stopped early."""
    ideal = Fit(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, inf)
    least_ms = batches(rows, specs.memory_gib).predicted_ms(ideal, specs)
    return [row for row, least in zip(rows, least_ms, strict=True) if row.ms >= least]


def held_out(rows: Sequence[Measurement], seed: int = SEED) -> Flags:
    """Which rows [N] belong to the quarter of configurations that no fit sees."""
    keys = sorted({row.configuration for row in rows})
    order = np.random.default_rng(seed).permutation(len(keys))
    held = {keys[i] for i in order[: round(len(keys) * HELD_OUT)]}
    return np.array([row.configuration in held for row in rows])


def errors(rows: Sequence[Measurement], specs: Specs, fitted: Fit) -> tuple[float, float]:
    """Median and 90th percentile of |predicted / measured - 1|."""
    data = batches(rows, specs.memory_gib)
    error = np.abs(data.predicted_ms(fitted, specs) / data.ms - 1)
    return float(np.median(error)), float(np.quantile(error, 0.9))


def _resident(memory_gib: float, model: Transformer, row: Measurement) -> float:
    try:
        return resident_rows(memory_gib, model, 1.5 * row.length, row.devices)
    except ValueError:  # it ran, so something was swapped or stored smaller: one at a time
        return 1.0


def _stack(parts: Sequence[Work]) -> Work:
    columns = np.array([astuple(part) for part in parts], dtype=np.float64).T
    return Work(**{field.name: column for field, column in zip(fields(Work), columns, strict=True)})
