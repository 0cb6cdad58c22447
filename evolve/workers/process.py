"""A worker in a process of its own, reached over two local sockets and shared memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from evolve import process_end
from evolve.errors import PlanDeclined, PlanFault, PlanLost, WorkerCrashed, WorkerHung
from evolve.workers.base import Answer, Inputs
from evolve.workers.nursery import Nursery, WorkerCopy
from evolve.workers.wire import SharedArrays, memory_file, receive, send
from supernet.jobs import malloc

if TYPE_CHECKING:
    from supernet.plans import Plan

__all__ = ["ProcessWorker", "environment", "load_request"]

SLICE_S = 0.25  # of waiting for an answer
LOAD_TIMEOUT_S = 120.0  # OpenVINO and AOTInductor load in about a second; a cold disk may not


class ProcessWorker:
    """Runs plans in a child process; see `Worker`.

    Args:
        name: Shown in the journal.
        threads: Threads that the child's maths libraries may use.
        hang_timeout_s: After this long without an answer the child is killed.
        nursery: What to copy the child from, plans and all; else it begins with nothing.
    """

    def __init__(
        self, name: str, *, threads: int, hang_timeout_s: float, nursery: Nursery | None = None
    ) -> None:
        self.name = name
        self._hang_timeout_s = hang_timeout_s
        self._control_lock = threading.Lock()
        self._running = threading.Lock()
        self._resident: frozenset[str] = frozenset()
        self._data, data_fd = _pair()
        self._control, control_fd = _pair()
        inputs_fd, outputs_fd = memory_file(), memory_file()
        self._inputs, self._outputs = SharedArrays(inputs_fd), SharedArrays(outputs_fd)
        theirs = (data_fd, control_fd, inputs_fd, outputs_fd)
        self._process: subprocess.Popen[bytes] | WorkerCopy
        try:
            if nursery is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "evolve.workers.child", *map(str, theirs)],
                    pass_fds=theirs,
                    stdin=subprocess.DEVNULL,
                    env=environment(threads),
                )
            else:
                self._process = nursery.fork(theirs)
                self._resident = nursery.plans
        finally:
            os.close(data_fd)
            os.close(control_fd)
        process_end.share(self)

    def orphan(self) -> None:
        """Called in a fork: the child ends once its real parent does."""
        for connection in (self._data, self._control):
            with contextlib.suppress(OSError):
                connection.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def resident(self) -> frozenset[str]:
        return self._resident

    def load(self, plan: Plan, warm: Sequence[Inputs] = ()) -> None:
        self._ask(load_request(plan, warm), what=f"plan {plan.spec.key} can't be loaded")
        self._resident = self._resident | {plan.spec.key}

    def unload(self, key: str) -> None:
        self._resident = self._resident - {key}
        self._ask({"op": "unload", "key": key}, what=f"plan {key} can't be unloaded")

    def _ask(self, header: dict[str, Any], *, what: str) -> None:
        with self._control_lock:
            reply = self._exchange(self._control, header, LOAD_TIMEOUT_S)
        if not reply["ok"]:
            raise (PlanLost if reply["lost"] else PlanFault)(f"{what}: {reply['why']}")

    def run(self, key: str, leaves: Sequence[torch.Tensor]) -> Answer:
        with self._running:
            return self._run(key, leaves)

    def _run(self, key: str, leaves: Sequence[torch.Tensor]) -> Answer:
        places = self._inputs.write([leaf.detach().numpy() for leaf in leaves])
        reply = self._exchange(self._data, {"plan": key, "arrays": places}, self._hang_timeout_s)
        if not reply["ok"] and reply["declined"]:
            raise PlanDeclined(f"plan {key} declined: {reply['why']}")
        if not reply["ok"]:
            raise PlanFault(f"plan {key} raised {reply['why']}")
        outputs = self._outputs.read(reply["arrays"])
        return Answer([torch.from_numpy(o) for o in outputs], reply["elapsed_ms"], lent=True)

    def _exchange(
        self, connection: Connection, header: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        try:
            send(connection, header)
            if not _answers(connection, timeout_s):
                stopped = _is_stopped(self.pid)
                self._process.kill()
                why = "; it had been stopped from outside" if stopped else ""
                raise WorkerHung(
                    f"worker {self.name} gave no answer within {timeout_s:g} s{why}",
                    stopped=stopped,
                )
            return receive(connection)
        except (EOFError, OSError) as error:
            self._process.kill()
            raise WorkerCrashed(self.name, self._process.wait()) from error

    def retire(self) -> None:
        with self._running:
            self.close()

    def close(self) -> None:
        # The child leaves its loop when its sockets close.
        for connection in (self._data, self._control):
            with contextlib.suppress(OSError):
                connection.close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _answers(connection: Connection, timeout_s: float) -> bool:
    """Whether there is an answer in time, counted in short waits: one during which this process
    was frozen (a container that is paused, a laptop asleep), and the worker too, is one of them."""
    left_s = timeout_s
    while not connection.poll(min(left_s, SLICE_S)):
        left_s -= SLICE_S
        if left_s <= 0:
            return False
    return True


def _is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped that process."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _pair() -> tuple[Connection, int]:
    here, there = socket.socketpair()
    return Connection(here.detach()), there.detach()


def load_request(plan: Plan, warm: Sequence[Inputs]) -> dict[str, Any]:
    """What a child is sent to load `plan` and run `warm` once."""
    if plan.artifact is None:
        raise PlanFault(f"plan {plan.spec.key} has no artifact to load")
    return {
        "op": "load",
        "spec": plan.spec.to_json(),
        "artifact": str(plan.artifact),
        "microbatches": plan.microbatches and plan.microbatches.to_json(),
        "warm": list(warm),
    }


def environment(threads: int) -> dict[str, str]:
    """The parent's environment, its import path, and the thread counts of the maths libraries."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(dict.fromkeys([root, *filter(None, sys.path)]))
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    given = malloc.environment(os.environ)
    return {**given, "PYTHONPATH": path, **{name: str(n) for name, n in counts.items()}}
