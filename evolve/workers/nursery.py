"""A process that loads plans once and never runs a batch: workers begin as copies of it.

    runtime ──load plan──► nursery ──fork──► worker, worker, …
       └──────────────── batches ──────────────┘

A copy shares with its like every page that neither writes to: torch itself (about 125 MiB) and the
packed weights are in memory once, not once per worker. Only what has a single thread can be copied,
so plans are loaded here whose engine starts none (torch with one thread); a worker loads others for
itself, as it does where there is no nursery. Linux only: it needs process descriptors.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from evolve import process_end
from evolve.errors import PlanFault
from evolve.workers.wire import SharedArrays, receive, send

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan

__all__ = ["Nursery", "WorkerCopy"]

LOAD_TIMEOUT_S = 120.0
FORK_TIMEOUT_S = 10.0
_FDS = 4  # data, control, inputs, outputs: what a worker is given


class Nursery:
    """The runtime's end of it. Raises `PlanFault` where it cannot do what it is asked for.

    Args:
        environment: What it and the workers are started with.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        here, there = socket.socketpair()
        self._socket = here
        self._connection = Connection(os.dup(here.fileno()))
        self._lock = threading.Lock()
        process_end.share(self)
        self.plans: frozenset[str] = frozenset()
        """Keys of the plans that its copies begin with."""
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "evolve.workers.nursery", str(there.fileno())],
                pass_fds=(there.fileno(),), stdin=subprocess.DEVNULL, env=dict(environment),
            )  # fmt: skip

    def orphan(self) -> None:
        """Called in a fork: the nursery ends once its real parent does."""
        with contextlib.suppress(OSError):
            self._connection.close()
            self._socket.close()

    @staticmethod
    def possible(threads: int) -> bool:
        """Whether workers of so many threads can be copied here."""
        return threads == 1 and hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def load(self, key: str, header: Mapping[str, Any]) -> None:
        """Load and warm one plan, by the header that a worker would be sent."""
        self._ask(header, LOAD_TIMEOUT_S)
        self.plans = self.plans | {key}

    def fork(self, fds: Sequence[int]) -> WorkerCopy:
        """A worker with all of its plans, that serves on these descriptors."""
        reply = self._ask({"op": "fork"}, FORK_TIMEOUT_S, fds)
        try:
            return WorkerCopy(reply["pid"], os.pidfd_open(reply["pid"]), self)
        except ProcessLookupError:  # not even a zombie is left: the nursery itself has ended
            raise PlanFault("the nursery ended while it copied itself") from None

    def reap(self, pid: int) -> int:
        """The status of a copy that has ended, as `subprocess` tells it."""
        try:
            return int(self._ask({"op": "reap", "pid": pid}, FORK_TIMEOUT_S)["status"])
        except PlanFault:
            return -signal.SIGKILL  # nobody knows any more; the likeliest

    def close(self) -> None:
        """End it; its copies live on."""
        self._connection.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _ask(
        self, header: Mapping[str, Any], timeout_s: float, fds: Sequence[int] = ()
    ) -> dict[str, Any]:
        try:
            with self._lock:
                send(self._connection, header)
                if fds:
                    socket.send_fds(self._socket, [b"."], fds)
                if not self._connection.poll(timeout_s):
                    self._process.kill()  # its answer would be taken for the next one's
                    raise PlanFault(f"the nursery gave no answer within {timeout_s:g} s")
                reply = receive(self._connection)
        except (EOFError, OSError, ValueError) as error:
            raise PlanFault(f"the nursery has ended: {error!r}") from error
        if not reply["ok"]:
            raise PlanFault(str(reply["why"]))
        return reply


class WorkerCopy:
    """A copy of the nursery, with what is used here of a `subprocess.Popen`."""

    def __init__(self, pid: int, descriptor: int, nursery: Nursery) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._nursery = nursery
        self._status: int | None = None
        weakref.finalize(self, os.close, descriptor)

    def poll(self) -> int | None:
        """Its status once it has ended."""
        if self._status is None and self._ended(0.0):
            self._status = self._nursery.reap(self.pid)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None and not self._ended(timeout):
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        status = self.poll()
        assert status is not None  # for the type checker: it has just ended
        return status

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> bool:
        return bool(select.select([self._descriptor], [], [], timeout_s)[0])


class _Cradle:
    """The process's side: one request at a time, on its only thread."""

    def __init__(self, asked: socket.socket) -> None:
        self._socket = asked
        self._connection = Connection(os.dup(asked.fileno()))
        self._plans: dict[str, LoadedPlan] = {}

    def serve(self) -> None:
        """Answers until the runtime is gone."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                header = receive(self._connection)
                try:
                    reply = self._answer(header)
                except Exception as error:
                    reply = {"ok": False, "why": f"{type(error).__name__}: {error}"}
                send(self._connection, reply)

    def _answer(self, header: Mapping[str, Any]) -> dict[str, Any]:
        from evolve.workers.child import load

        if header["op"] == "load":
            key, plan = load(header)
            self._plans[key] = plan
            return {"ok": True}
        if header["op"] == "reap":
            _, status = os.waitpid(header["pid"], 0)
            return {"ok": True, "status": os.waitstatus_to_exitcode(status)}
        _, fds, _, _ = socket.recv_fds(self._socket, 1, _FDS)
        try:
            return {"ok": True, "pid": self._fork(fds)}
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, fds: Sequence[int]) -> int:
        if (threads := len(os.listdir("/proc/self/task"))) != 1:
            raise RuntimeError(f"the nursery must have one thread to be copied, got {threads}")
        gc.collect()
        gc.freeze()  # a collection in the copy would write to every object's header
        pid = os.fork()
        if pid == 0:
            try:
                self._be_worker(fds)
            finally:
                os._exit(0)
        return pid

    def _be_worker(self, fds: Sequence[int]) -> None:
        from evolve.workers.child import Child

        self._connection.close()
        self._socket.close()
        data, control = (Connection(fd) for fd in fds[:2])
        inputs, outputs = (SharedArrays(fd) for fd in fds[2:])
        Child(data, control, inputs, outputs, self._plans).serve()


def main(argv: Sequence[str]) -> None:
    """Answers on the socket whose descriptor is `argv[0]` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runtime decides, as for every worker
    try:
        _Cradle(socket.socket(fileno=int(argv[0]))).serve()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
