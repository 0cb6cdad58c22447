"""Fit the device models to measured rows and say how well they predict rows that they never saw.

`python -m sims.devices.fit --data FOLDER` reads `hardware/llm_inference_bench_All_results.csv` of
FOLDER (LLM-Inference-Bench, Argonne, BSD-3-Clause, github.com/argonne-lcf/LLM-Inference-Bench):
`Latency` seconds to read a batch of prompts of n tokens and to write n more. Configurations
(model, batch, length) are held out whole, with all their numbers of devices.

The error on the logarithm is minimised with Huber's loss and a weak prior, by Gauss-Newton steps
damped after Levenberg and Marquardt. Residuals count in full up to 15 %, linearly beyond.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sims.devices.measured import (
    Measurement,
    batches,
    errors,
    held_out,
    possible,
    read_measurements,
)
from sims.devices.model import Fit, Specs
from sims.devices.table import MEASURED, SPECS, median_fit

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_HUBER = 0.15
_SHARES = 4  # the first fields of Fit lie in (0, 1), the next are above 0
# Where the fit starts and its prior's centre; standard deviations on the logit or log scale.
_START = Fit(0.5, 0.7, 0.5, 0.5, 50.0, 20.0, 20.0, 100.0)
_SPREAD = np.array([1.0, 1.0, 1.5, 1.5, 1.5, 2.0, 1.5, 1.5])
_PRIOR = 0.04


class Report(NamedTuple):
    """A fit, its rows, and its median and 90th-percentile |predicted / measured - 1|."""

    name: str
    fit: Fit
    rows: int
    impossible: int
    train: tuple[float, float]
    held: tuple[float, float]
    held_models: tuple[float, float]


def fit(rows: Sequence[Measurement], specs: Specs, blend: float = inf) -> Fit:
    """The shares and overheads that predict `rows` best."""
    data = batches(rows, specs.memory_gib)
    start = _to_free(_START)
    free, damping = start.copy(), 1e-2

    def residuals(at: Floats) -> Floats:
        return np.log(data.predicted_ms(_to_fit(at, blend), specs) / data.ms)

    def loss(at: Floats, error: Floats) -> float:
        size = np.abs(error)
        huber = np.where(size < _HUBER, size**2 / 2, _HUBER * (size - _HUBER / 2)).sum()
        return float(huber + _PRIOR / 2 * (((at - start) / _SPREAD) ** 2).sum())

    error = residuals(free)
    for _ in range(200):
        slope = np.stack(
            [(residuals(free + nudge) - error) / 1e-5 for nudge in 1e-5 * np.eye(free.size)], axis=1
        )
        weight = _HUBER / np.maximum(np.abs(error), _HUBER)
        curve = slope.T @ (weight[:, None] * slope) + np.diag(_PRIOR / _SPREAD**2)
        downhill = -slope.T @ (weight * error) - _PRIOR * (free - start) / _SPREAD**2
        step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), downhill)
        if loss(free + step, residuals(free + step)) < loss(free, error):
            free, damping = free + step, max(damping / 3, 1e-9)
            error = residuals(free)
        elif damping > 1e6 or np.abs(step).max() < 1e-7:
            break
        else:
            damping *= 4
    return _to_fit(free, blend)


def report(path: Path, name: str, blend: float = inf) -> Report:
    """Fit the measured device `name` and price what was held out."""
    read = read_measurements(path, *MEASURED[name])
    specs = SPECS[name]
    rows = possible(read, specs)
    held = held_out(rows)
    train = _where(rows, ~held)
    fitted = fit(train, specs, blend)
    unseen = []
    for model in sorted({row.model for row in rows}):
        others = fit([row for row in rows if row.model != model], specs, blend)
        unseen.append(errors([row for row in rows if row.model == model], specs, others))
    median_of_models = np.median(np.array(unseen), axis=0)
    return Report(
        name,
        fitted,
        len(rows),
        len(read) - len(rows),
        errors(train, specs, fitted),
        errors(_where(rows, held), specs, fitted),
        (float(median_of_models[0]), float(median_of_models[1])),
    )


def blend_error(path: Path, name: str, blend: float) -> float:
    """Median error of four-fold cross-validation within the training rows, by configuration."""
    specs = SPECS[name]
    rows = possible(read_measurements(path, *MEASURED[name]), specs)
    train = _where(rows, ~held_out(rows))
    folds = [held_out(train, seed) for seed in range(1, 5)]
    return float(
        np.mean(
            [
                errors(_where(train, f), specs, fit(_where(train, ~f), specs, blend))[0]
                for f in folds
            ]
        )
    )


def stranger_errors(path: Path, reports: Iterable[Report], name: str) -> tuple[float, float]:
    """Errors on `name` of the median fit of the other devices: what no rows at all would give."""
    others = median_fit([r.fit for r in reports if "-" not in r.name and r.name != name])
    return errors(
        possible(read_measurements(path, *MEASURED[name]), SPECS[name]), SPECS[name], others
    )


def _where(rows: Sequence[Measurement], keep: Flags) -> list[Measurement]:
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


def _to_free(fitted: Fit) -> Floats:
    values = np.array(astuple(fitted)[:-1])
    shares = values[:_SHARES]
    return np.concatenate([np.log(shares / (1 - shares)), np.log(values[_SHARES:])])


def _to_fit(free: Floats, blend: float) -> Fit:
    shares = 1 / (1 + np.exp(-np.clip(free[:_SHARES], -12, 12)))
    compute, memory, cache, reread = shares.tolist()
    layer_us, row_us, exchange_us, rate = np.exp(free[_SHARES:]).tolist()
    return Fit(compute, memory, cache, reread, layer_us, row_us, exchange_us, rate, blend)


def _percent(pair: tuple[float, float]) -> str:
    return f"{pair[0]:6.1%}{pair[1]:7.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of devices, the choice of the blend, and the errors without any rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds hardware/")
    parser.add_argument("--blends", action="store_true", help="also compare ways to join times")
    options = parser.parse_args(arguments)
    path = options.data / "hardware/llm_inference_bench_All_results.csv"
    reports = [report(path, name) for name in MEASURED]
    print(f"{'median and p90 of':24}{'rows':>5} {'train':>13} {'held out':>13} {'new models':>13}")
    for r in reports:
        left = f"  ({r.impossible} impossible rows left out)" if r.impossible else ""
        print(f"{r.name:24}{r.rows:5} {_percent(r.train)} {_percent(r.held)} ", end="")
        print(f"{_percent(r.held_models)}{left}")
    for r in reports:
        numbers = ", ".join(f"{value:.3g}" for value in astuple(r.fit)[:-1])
        print(f'    "{r.name}": Fit({numbers}),')
    print("without any row of the device, by the median fit of the others:")
    for r in (r for r in reports if "-" not in r.name):  # one fit per kind of hardware
        print(f"{r.name:24}{_percent(stranger_errors(path, reports, r.name))}")
    for blend in (1.0, 2.0, 4.0, inf) if options.blends else ():
        each = [blend_error(path, name, blend) for name in MEASURED]
        print(f"blend {blend:3g}: " + " ".join(f"{error:6.1%}" for error in each))


if __name__ == "__main__":
    main()
