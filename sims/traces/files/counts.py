"""Requests counted per second: one whole number a line, the first line is second 0.

Within its second an arrival is uniform, which given the count is what a Poisson process does.
A long run of zeros is where nothing was collected, and is cut out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sims.traces.files.lines import ArrivalChunk, Reading, lines, whole_number

__all__ = ["count_batches"]

BLOCK_S = 256  # seconds drawn at once, each block from a seed of its own
MOST_PER_S = 10_000_000  # a typing error must not fill the memory

Counts = NDArray[np.int64]


def count_batches(source: Path, reading: Reading) -> Iterator[ArrivalChunk]:
    """The arrivals of lines within [start_s, stop_s) of the file, `start_s` as 0, gaps cut out.

    Each block of lines has its own random numbers: a slice holds the arrivals of the whole file,
    and what lies before it is read but not drawn.
    """
    last, cut_s = -1, 0.0  # the last second with arrivals; how much was cut since start_s
    for block, counts in enumerate(_blocks(source)):
        if block * BLOCK_S >= reading.stop_s:
            return
        busy = np.flatnonzero(counts)
        if busy.size == 0:
            continue
        seconds = block * BLOCK_S + busy
        idle = np.concatenate([[last], seconds[:-1]]) + 1  # since when: at `seconds` if not at all
        lost = np.maximum(seconds - np.maximum(idle, reading.start_s), 0.0)
        cuts_s = cut_s + np.cumsum(np.where(seconds - idle >= reading.gap_s, lost, 0.0))
        last, cut_s = int(seconds[-1]), float(cuts_s[-1])
        if last + 1 <= reading.start_s:
            continue
        rng = np.random.default_rng([reading.seed, block])
        per_s = counts[busy]
        times = np.sort(np.repeat(seconds, per_s) + rng.random(int(per_s.sum())))
        kept = (times >= reading.start_s) & (times < reading.stop_s)
        shifted = times - (np.repeat(cuts_s, per_s) + reading.start_s)
        if kept.any():
            yield ArrivalChunk(np.maximum(shifted[kept], 0.0), None, drawn=True)


def _blocks(source: Path) -> Iterator[Counts]:
    numbers = (
        whole_number(text.strip(), "count", f"{source.name}:{line}", MOST_PER_S)
        for line, text in enumerate(lines(source), 1)
    )
    while block := list(islice(numbers, BLOCK_S)):
        yield np.array(block, np.int64)
