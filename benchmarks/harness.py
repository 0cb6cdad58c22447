"""Interleaved repeats, medians, and where the results go."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import evolve
from evolve.demo import minilm
from evolve.demo.text import sentences
from profiler.units import host_database

OUT = Path("out/bench")
PACKAGES = ("evolve-runtime", "torch", "onnxruntime", "openvino", "numpy", "numba", "transformers")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that was promised: `python -m benchmarks --verdict` names those that fall short.

    Stands among the figures of a benchmark's JSON as an object that holds `value`, `target`,
    `at_most` and `holds`. A value that is not a number never holds.

    >>> Figure(0.5, 1).holds, Figure(3.0, 4.0, at_most=False).holds
    (True, False)
    """

    value: float
    target: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        """Whether the value is on the promised side of the target."""
        return self.value <= self.target if self.at_most else self.value >= self.target

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        verdict = "holds" if self.holds else "falls short"
        return f"{self.value:.4g} ({sign} {self.target:g}: {verdict})"

    def to_json(self) -> dict[str, Any]:
        """What a benchmark's JSON holds of it."""
        return {
            "value": self.value,
            "target": self.target,
            "at_most": self.at_most,
            "holds": self.holds,
        }


def summary(samples: np.ndarray[Any, Any] | list[float]) -> dict[str, float]:
    """Median, p99, least, most and number of some samples."""
    values = np.asarray(samples, dtype=float)
    return {
        "median": float(np.median(values)),
        "p99": float(np.quantile(values, 0.99)),
        "min": float(values.min()),
        "max": float(values.max()),
        "n": len(values),
    }


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, *, warm: int = 20
) -> dict[str, np.ndarray[Any, Any]]:
    """Microseconds of each call, taken in turn, so that a change of the machine hits them alike."""
    times = {name: np.empty(repeats) for name in calls}
    for i in range(-warm, repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if i >= 0:
                times[name][i] = (time.perf_counter() - began) * 1e6
    return times


def publish(name: str, question: str, rows: Mapping[str, Any], **settings: Any) -> None:
    """Prints a table and saves `out/bench/NAME.json`. What was promised is a `Figure`."""
    table = Table(title=question, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in rows.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "question": question,
        "figures": {
            key: value.to_json() if isinstance(value, Figure) else value
            for key, value in rows.items()
        },
        "settings": settings,
        "fingerprint": host_database().fingerprints()[0].to_json(),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }
    (OUT / f"{name}.json").write_text(json.dumps(record, indent=2, default=str) + "\n")


def encoder(seed: int = 0) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """The demo's model and 64 tokenised sentences."""
    model, tokenizer = minilm.load()
    return model, minilm.tokenize(tokenizer, sentences(64, seed=seed))


def wrapped(
    model: torch.nn.Module, examples: list[dict[str, torch.Tensor]], **settings: Any
) -> evolve.Runtime:
    """A runtime with every plan tried, SLO as in the demo."""
    config = evolve.Config().replace(**settings)
    runtime = evolve.wrap(model, examples, slo=evolve.SLO(p99_ms=50.0), config=config)
    runtime.wait_for_plans()
    return runtime
