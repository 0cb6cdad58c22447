"""Rates that this CPU really reaches: copying memory and multiplying matrices.

Each figure is the best of several runs: interruptions only ever make a run slower, so the best
one is the closest to what the machine can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from profiler.facts import Rate

Clock = Callable[[], float]
Product = Callable[[], object]

_SHARE_S = 0.12  # per figure; eleven or so of them make up the 2 s
_MIN_RUNS, _MAX_RUNS = 3, 40
_QUIET = 0.8  # below this share of the cores, somebody else was computing
_COPY_BYTES_MAX = 256 << 20
_SIDES = (256, 512, 1024, 2048)  # matrix sides; the largest one that still allows several runs


@dataclass(frozen=True, slots=True)
class CpuRates:
    """Bandwidths in 10⁹ bytes per second, and matrix rates by dtype."""

    copy_core_gb_per_s: float
    copy_all_gb_per_s: float
    matrix: Mapping[str, Rate]
    notes: tuple[str, ...]


def measure_cpu(cores: int, l3_bytes: int, *, clock: Clock = time.perf_counter) -> CpuRates:
    """All rates of this CPU, within about 2 s (and one import of torch, if it is not in yet)."""
    copy_core = copy_gb_per_s(1, l3_bytes, clock)
    copy_all = copy_gb_per_s(cores, l3_bytes, clock) if cores > 1 else copy_core
    notes: list[str] = []
    if (granted := granted_share(cores, clock)) < _QUIET:
        notes.append(
            f"only {granted:.0%} of {cores} cores was free while measuring: "
            "rates may be low, measure again when the machine is quiet"
        )
    try:
        matrix = _torch_rates(cores, clock, notes)
    except ImportError:
        matrix = {"fp32": numpy_fp32(clock)}
        notes.append(
            "torch is not installed: fp32 by numpy, one core by CPU time; bf16, int8 not measured"
        )
    return CpuRates(copy_core, max(copy_core, copy_all), matrix, tuple(notes))


def best_s(run: Product, clock: Clock, *, share_s: float = _SHARE_S) -> float:
    """Seconds of the fastest run, after one to warm up; at least 3 runs, then until `share_s`."""
    run()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < _MIN_RUNS or (spent < share_s and runs < _MAX_RUNS):
        start = clock()
        run()
        elapsed = clock() - start
        best, spent, runs = min(best, elapsed), spent + elapsed, runs + 1
    return max(best, 1e-9)  # a coarse clock may read 0


def copy_gb_per_s(threads: int, l3_bytes: int, clock: Clock = time.perf_counter) -> float:
    """Copying arrays four times the last cache, as in STREAM's Copy: read and write counted."""
    size = min(_COPY_BYTES_MAX, max(16 << 20, 4 * l3_bytes)) // threads // 8
    # Both touched, so that no page is mapped while the clock runs.
    pairs = [(np.ones(size), np.zeros(size)) for _ in range(threads)]
    with _together([partial(np.copyto, target, source) for source, target in pairs]) as run:
        return 2 * 8 * size * threads / best_s(run, clock) / 1e9


def granted_share(cores: int, clock: Clock = time.perf_counter) -> float:
    """Share of `cores` cores that this process gets when it asks for all of them.

    CPU time over wall time while every core copies; the load average would not do, since in a
    container it is often that of the host.
    """
    pairs = [(np.ones(8 << 20), np.zeros(8 << 20)) for _ in range(cores)]
    with _together([partial(np.copyto, target, source) for source, target in pairs]) as run:
        run()
        wall_s, cpu_s = clock(), time.process_time()
        for _ in range(5):
            run()
        wall_s, cpu_s = clock() - wall_s, time.process_time() - cpu_s
    return cpu_s / (wall_s * cores) if wall_s > 0 else 1.0


def numpy_fp32(clock: Clock = time.perf_counter) -> Rate:
    """The fp32 rate where torch is absent.

    numpy's BLAS cannot be told how many threads to use, so one core is judged by CPU time.
    """
    side = _SIDES[1]
    a = np.ones((side, side), dtype=np.float32)
    operations = 2.0 * side**3
    everywhere = operations / best_s(lambda: a @ a, clock) / 1e9
    per_cpu = operations / best_s(lambda: a @ a, time.process_time) / 1e9
    return Rate(min(per_cpu, everywhere), everywhere, "numpy")


@contextmanager
def _together(runs: Sequence[Product]) -> Iterator[Product]:
    """One call that makes all `runs` at once, each in its own thread, and waits for them.

    Separate single-threaded products rather than one shared by an OpenMP team: where another
    process holds a core, a team waits at every barrier and reads 50 times too low.
    """
    if len(runs) == 1:
        yield runs[0]
        return
    with ThreadPoolExecutor(len(runs)) as pool:  # numpy and torch release the GIL

        def everywhere() -> None:
            for future in [pool.submit(run) for run in runs]:
                future.result()

        yield everywhere


def _torch_rates(cores: int, clock: Clock, notes: list[str]) -> dict[str, Rate]:
    import torch

    rates: dict[str, Rate] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for dtype in _KERNELS:
            one = _fastest(dtype, 1, clock, notes)
            many = _fastest(dtype, cores, clock, notes) if one and cores > 1 else one
            if one and many:
                rates[dtype] = Rate(one[0], max(one[0], many[0]), many[1])
    finally:
        torch.set_num_threads(before)
    return rates


def _fastest(dtype: str, threads: int, clock: Clock, notes: list[str]) -> tuple[float, str] | None:
    """(10⁹ operations per second, kernel) of the fastest kernel torch has for `dtype`."""
    found: list[tuple[float, str]] = []
    for kernel, make in _KERNELS[dtype].items():
        try:
            found.append((_rate(make, threads, clock), kernel))
        except (AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:120]
            note = f"{dtype}: {kernel} is not usable here ({reason})"
            if note not in notes:
                notes.append(note)
    return max(found, default=None)


def _rate(make: Callable[[int], Product], threads: int, clock: Clock) -> float:
    """10⁹ operations per second at the best side among those that allow several runs."""
    rate = 0.0
    for side in _SIDES:
        with _together([make(side) for _ in range(threads)]) as run:
            seconds = best_s(run, clock, share_s=_SHARE_S / len(_SIDES))
        rate = max(rate, 2.0 * side**3 * threads / seconds / 1e9)
        if 8 * seconds * (_MIN_RUNS + 1) > _SHARE_S:  # the next side takes 8 × as long
            break
    return rate


# MKL's sgemm keeps to AVX2 on CPUs of other makers, oneDNN uses AVX-512 wherever it exists: on a
# Zen 5 that is 99 against 213 GFLOP/s. The better one is what a good plan can reach.
def _mm_fp32(side: int) -> Product:
    import torch

    a, b = torch.ones(side, side), torch.ones(side, side)
    return lambda: torch.mm(a, b)


def _onednn_fp32(side: int) -> Product:
    import torch

    a, b = (torch.ones(side, side).to_mkldnn() for _ in range(2))
    return lambda: torch.nn.functional.linear(a, b)


def _mm_bf16(side: int) -> Product:
    import torch

    a, b = (torch.ones(side, side, dtype=torch.bfloat16) for _ in range(2))
    return lambda: torch.mm(a, b)


def _mm_int8(side: int) -> Product:
    import torch

    multiply = torch._int_mm  # the only int8 product that torch offers on plain tensors
    a, b = (torch.ones(side, side, dtype=torch.int8) for _ in range(2))
    return lambda: multiply(a, b)


_KERNELS: dict[str, dict[str, Callable[[int], Product]]] = {
    "fp32": {"torch.mm": _mm_fp32, "oneDNN linear": _onednn_fp32},
    "bf16": {"torch.mm": _mm_bf16},
    "int8": {"torch._int_mm": _mm_int8},
}
