"""The worker process: loads plans on one socket, runs batches on another.

Copied from a nursery that has loaded plans already (`evolve.workers.nursery`), or started by
`evolve.workers.process` as ``python -m evolve.workers.child DATA CONTROL INPUTS OUTPUTS``: file
descriptors of two connected sockets and of two files of shared memory. It imports torch only when a
plan needs it, and ends when its parent closes the sockets or dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from evolve.workers.wire import SharedArrays, receive, send
from supernet.backends.base import check_artifact, load_plan
from supernet.errors import ArtifactBroken, OutsideRange
from supernet.jobs import malloc
from supernet.microbatches import Microbatches
from supernet.plans import PlanSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from supernet.backends.base import LoadedPlan

__all__ = ["Child", "load", "main"]


class Child:
    """The plans of one worker process. Values in `plans` are only ever replaced."""

    def __init__(
        self,
        data: Connection,
        control: Connection,
        inputs: SharedArrays,
        outputs: SharedArrays,
        plans: Mapping[str, LoadedPlan] = MappingProxyType({}),
    ) -> None:
        self.data = data
        self.control = control
        self.inputs = inputs
        self.outputs = outputs
        self.plans: dict[str, LoadedPlan] = dict(plans)

    def serve(self) -> None:
        """Answers batches until the parent is gone."""
        threading.Thread(target=self._control, name="control", daemon=True).start()
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                header = receive(self.data)
                send(self.data, self._run(header["plan"], header["arrays"]))

    def _run(self, key: str, places: Sequence[Any]) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            outputs = _run_loaded(self.plans[key], self.inputs.read(places))
            elapsed_ms = (time.perf_counter() - began) * 1e3
            return {"ok": True, "elapsed_ms": elapsed_ms, "arrays": self.outputs.write(outputs)}
        except OutsideRange as error:
            return {"ok": False, "declined": True, "why": str(error)}
        except Exception as error:
            return {"ok": False, "declined": False, "why": f"{type(error).__name__}: {error}"}

    def _control(self) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                send(self.control, self._change(receive(self.control)))

    def _change(self, header: dict[str, Any]) -> dict[str, Any]:
        try:
            if header["op"] == "load":
                key, loaded = load(header)
                self.plans = {**self.plans, key: loaded}
            else:
                gone = self.plans.get(header["key"])
                self.plans = {k: v for k, v in self.plans.items() if k != header["key"]}
                if gone is not None:
                    gone.close()
                del gone
                malloc.give_back()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            return {"ok": False, "why": why, "lost": isinstance(error, ArtifactBroken)}
        return {"ok": True}


def load(header: Mapping[str, Any]) -> tuple[str, LoadedPlan]:
    """The plan that `header` names, by its key, after it ran each of `warm` once on zeros."""
    spec = PlanSpec.from_json(header["spec"])
    how = header["microbatches"] and Microbatches.from_json(header["microbatches"])
    check_artifact(Path(header["artifact"]), spec)
    loaded = load_plan(Path(header["artifact"]), spec, how)
    for inputs in header["warm"]:
        with contextlib.suppress(OutsideRange):  # zeros need not be like what comes
            _run_loaded(loaded, [np.zeros(shape, dtype) for dtype, shape in inputs])
    malloc.give_back()
    return spec.key, loaded


def _run_loaded(plan: LoadedPlan, arrays: Sequence[Any]) -> list[Any]:
    if plan.arrays == "numpy":
        return list(plan.run(arrays))
    import torch

    with torch.no_grad():
        outputs = plan.run([torch.from_numpy(array) for array in arrays])
    return [output.detach().numpy() for output in outputs]


def main(argv: Sequence[str]) -> None:
    """Serves on the descriptors named in `argv` until the sockets among them close."""
    # Ctrl-C goes to the whole terminal group; the parent decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data, control = (Connection(int(fd)) for fd in argv[:2])
    inputs, outputs = (SharedArrays(int(fd)) for fd in argv[2:])
    try:
        Child(data, control, inputs, outputs).serve()
    finally:
        # No native library's exit handlers: they would run beside the control thread, and
        # there is nothing to save.
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
