"""Rates that a CUDA device really reaches. Needs a CUDA build of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from profiler.rates import best_s

_COPY_BYTES = 1 << 30
_SIDE = 4096


def measure_cuda(
    index: int, *, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, dict[str, float]]:
    """(copy bandwidth in 10⁹ bytes/s, matrix rates in 10⁹ operations/s by dtype).

    fp32 is true fp32: TF32 rounds its inputs to 10 bits and is not the same answer.
    """
    import torch

    device = torch.device("cuda", index)

    def timed(run: Callable[[], object]) -> float:
        def wait() -> None:
            run()
            torch.cuda.synchronize(device)

        return best_s(wait, clock)

    def product(dtype: torch.dtype) -> float:
        a = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
        multiply = torch._int_mm if dtype is torch.int8 else torch.mm
        return 2 * _SIDE**3 / timed(lambda: multiply(a, a.t())) / 1e9

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode():
            source = torch.ones(_COPY_BYTES // 4, device=device)
            target = torch.empty_like(source)
            bandwidth = 2 * _COPY_BYTES / timed(lambda: target.copy_(source)) / 1e9
            rates = {"fp32": product(torch.float32), "bf16": product(torch.bfloat16)}
            # Not every device and torch has an int8 product: then it stays unmeasured.
            with suppress(AttributeError, RuntimeError):
                rates["int8"] = product(torch.int8)
            return bandwidth, rates
    finally:
        torch.set_float32_matmul_precision(before)
