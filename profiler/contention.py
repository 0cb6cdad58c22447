"""Slowdown of a batch by batches that run beside it, on the other lanes of the machine."""

from __future__ import annotations

from math import exp, isfinite, log

from profiler.facts import DeviceFingerprint

__all__ = ["Contention"]

_GAIN = 0.02  # share of each surprise, once many batches were seen
_PRIOR_BATCHES = 10  # what the machine's rates weigh as much as
_CLIP = log(2.0)  # one batch never says more than "twice"


class Contention:
    """How many times as long a batch takes while `beside` other lanes compute.

    Plans are timed alone, since timings must not depend on what else runs; two lanes that share a
    core's units, a cache or the way to the memory slow each other. The factor is a property of
    the machine more than of the plan, so all plans teach it, and it is known of a plan that has
    never met company.

    `slowdowns`: by number of lanes beside; the first is 1. Not thread-safe: one thread
    teaches, any may read.

    Args:
        lanes: Lanes of the runtime.
        expected: What to go by before batches ran; `expected_slowdown` says it of a device.

    >>> contention = Contention(lanes=2, expected=(1.0, 1.5))
    >>> for _ in range(200):
    ...     contention.record_batch(beside=1, took_over_predicted=1.7 / contention.slowdowns[1])
    >>> round(contention.slowdowns[1], 1)
    1.7
    """

    def __init__(self, lanes: int, expected: tuple[float, ...] = ()) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        if expected and len(expected) != lanes:
            raise ValueError(f"expected must have one entry per lane ({lanes}), got {expected}")
        self.slowdowns = expected or (1.0,) * lanes
        self._most = float(lanes)
        self._batches = [0] * lanes

    def slowdown(self, beside: int) -> float:
        """Of a batch that began while `beside` other lanes computed."""
        return self.slowdowns[min(beside, len(self.slowdowns) - 1)]

    def record_batch(self, beside: int, took_over_predicted: float) -> None:
        """A batch ran that began while `beside` other lanes computed; its prediction held
        ``slowdowns[beside]``."""
        if not (0 < beside < len(self.slowdowns) and took_over_predicted > 0):
            return
        if not isfinite(took_over_predicted):
            return
        self._batches[beside] += 1
        gain = max(_GAIN, 1.0 / (self._batches[beside] + _PRIOR_BATCHES))
        surprise = min(_CLIP, max(-_CLIP, log(took_over_predicted)))
        factor = self.slowdowns[beside] * exp(gain * surprise)
        factors = list(self.slowdowns)
        factors[beside] = min(self._most, max(1.0, factor))
        self.slowdowns = tuple(factors)  # readers see one whole


def expected_slowdown(device: DeviceFingerprint, lanes: int, threads: int) -> tuple[float, ...]:
    """Slowdowns by number of lanes beside, `threads` each, from the device's matrix rates: what
    one core does alone over its share of what all do together. 1 where no rate was measured."""
    if device.kind != "cpu" or "fp32" not in device.matrix_gflop_per_s:
        return (1.0,) * lanes
    cores = max(1, device.cores)
    alone = device.gflop_per_s("fp32", cores=min(threads, cores))
    slowdowns = []
    for lane in range(1, lanes + 1):
        together = device.gflop_per_s("fp32", cores=min(lane * threads, cores))
        slowdowns.append(max(1.0, min(float(lane), lane * alone / together)))
    return tuple(slowdowns)
