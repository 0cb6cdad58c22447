"""Backends that do one thing wrong (or right), for the build process to cope with.

They stand for an engine that computes ``2 * x``; none imports torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from supernet.backends.base import Source
from supernet.errors import BuildFailed
from supernet.plans import PlanSpec
from supernet.signature import Signature


class Doubling:
    """The well-behaved one: leaves its niceness and process id behind."""

    name = "double"
    needs_torch = False

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def precisions(self, isa: str) -> tuple[str, ...]:
        return ("fp32",)

    def supports(self, signature: Signature) -> str | None:
        return None

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        (out / "niceness").write_text(str(os.nice(0)))
        print("libraries print what they like")

    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        return DoublingPlan()


class DoublingPlan:
    arrays: Literal["numpy"] = "numpy"

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        return [inputs[0] * np.float32(2)]

    def close(self) -> None:
        pass


class Plan(DoublingPlan):
    def __init__(self, run: Any) -> None:
        self._run = run

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        return list(self._run(inputs))


class Miscompiling(Doubling):
    """Right for one row, wrong in the last row of a batch."""

    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        def run(inputs: Sequence[Any]) -> list[Any]:
            answer = inputs[0] * np.float32(2)
            answer[1:][-1:] *= np.float32(1.02)
            return [answer]

        return Plan(run)


class Overwriting(Doubling):
    """Gives its own buffer away and writes the next answer into it."""

    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        buffer = np.zeros((64, 8), np.float32)

        def run(inputs: Sequence[Any]) -> list[Any]:
            rows = len(inputs[0])
            buffer[:rows] = inputs[0] * 2
            return [buffer[:rows]]

        return Plan(run)


class NotANumber(Doubling):
    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        return Plan(lambda inputs: [inputs[0] * np.float32(np.nan)])


class OtherDtype(Doubling):
    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        return Plan(lambda inputs: [inputs[0] * np.float64(2)])


class Raising(Doubling):
    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        def run(inputs: Sequence[Any]) -> list[Any]:
            raise RuntimeError("no kernel for this shape\nand a long explanation")

        return Plan(run)


class Starving(Doubling):
    """Finds no memory to run in, and says so as torch does."""

    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        def run(inputs: Sequence[Any]) -> list[Any]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")

        return Plan(run)


class Fitting(Doubling):
    """Right up to three times the largest number among the examples it was built on."""

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        largest = max(float(leaf.max()) for inputs, _ in source.references() for leaf in inputs)
        (out / "largest").write_text(str(3 * largest))

    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        largest = np.float32((artifact / "largest").read_text())
        return Plan(lambda inputs: [np.minimum(inputs[0], largest) * np.float32(2)])


class Segfaulting(Doubling):
    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        ctypes.string_at(0)


class SegfaultingRun(Doubling):
    def load(self, artifact: Path, spec: PlanSpec) -> DoublingPlan:
        return Plan(lambda inputs: [ctypes.string_at(0)])


class Refusing(Doubling):
    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        raise BuildFailed("nothing to quantise")


class Broken(Doubling):
    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        raise KeyError("an engine's own mistake")


class Babbling(Doubling):
    """Fails in the words of the file ``words``."""

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        raise ValueError((Path(os.environ["DOUBLES_PLACE"]) / "words").read_text())


class Hanging(Doubling):
    """Starts a child of its own, tells where both are, and never ends."""

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        child = os.fork()
        if child:
            place = Path(os.environ["DOUBLES_PLACE"])
            (place / "pids.tmp").write_text(f"{os.getpid()} {child}")
            (place / "pids.tmp").rename(place / "pids")
        while True:
            time.sleep(1)


class Killed(Doubling):
    """Killed from outside the first so many times (a number in the file ``kills``)."""

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        left = Path(os.environ["DOUBLES_PLACE"]) / "kills"
        kills = int(left.read_text())
        if kills:
            left.write_text(str(kills - 1))
            os.kill(os.getpid(), signal.SIGKILL)


class Filling(Doubling):
    """Meets a full disk half way."""

    def build(self, source: Source, spec: PlanSpec, out: Path) -> None:
        (out / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
