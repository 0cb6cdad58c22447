"""Jobs as copies of a process that has imported already what they import.

    run_job ──► Warm ──── socket ────► server: imports, forks ──► job, job, …
                  └─ stdin, stdout ───────────────────────────────┘

Most of a small build is the import of torch and of what exports and compiles with it: seconds. The
server does that once; each job is a fork of it, with streams, folder and session of its own, and
ends as a fresh process would. Once nobody has asked for anything for ten seconds the server ends,
and with it what it holds in memory. A job whose memory or time is measured must be a fresh process.

Only what has a single thread can be copied: where an import starts one, and elsewhere than on
Linux, jobs are fresh processes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from supernet.jobs.child import be_named
from supernet.jobs.pausing import wake_with_parent

__all__ = ["NAME", "Copy", "NoCopy", "copy"]

NAME = "job_server"
"""What it goes by in lists of processes."""
IDLE_S = 10.0
_POLL_MS = 100
_LONGEST = 1 << 20
_OWN = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "PYTEST_CURRENT_TEST")
"""What differs from job to job: read when it is used, and not when something is imported."""


class NoCopy(Exception):
    """No copy can be had; the job must be a fresh process."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A job to be: a module to run with one argument, as ``python -m`` would."""

    module: str
    argument: str
    environment: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.environment.get("OMP_NUM_THREADS") != "1":
            raise NoCopy("more threads than one are set up when torch is imported")
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            raise NoCopy("process descriptors are Linux's")

    @property
    def common(self) -> frozenset[tuple[str, str]]:
        """Of its environment what imports may have looked at: a copy has it like its original."""
        return frozenset((k, v) for k, v in self.environment.items() if k not in _OWN)


def copy(
    module: str,
    argument: str,
    environment: Mapping[str, str],
    imports: Sequence[str],
    errors: IO[bytes],
    check: Callable[[], None],
) -> Copy:
    """A process that runs ``module`` with one argument, as a copy of one that has ``imports``.

    ``errors`` takes its stderr; ``check`` is called several times a second while the imports are
    waited for, and may raise. Raises `NoCopy` where there can be none.
    """
    asked = _Asked(module, argument, environment)
    for _ in range(2):  # it may end for idleness just when it is asked
        server = _server(asked)
        while not server.is_ready(imports):
            check()
        with contextlib.suppress(_Gone):
            return server.start(asked, errors)
    raise NoCopy("the server ended twice")


class _Gone(Exception):
    """The server has ended."""


class Copy:
    """A job's process, with what is used of a `subprocess.Popen`."""

    def __init__(self, pid: int, server: _Server, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._server = server
        # Not waited for by the server until it is asked to: the number is still this process's.
        self._descriptor = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """Its status, as `subprocess` tells it; `subprocess.TimeoutExpired` while it has none."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if not poll.poll(None if timeout is None else 1e3 * timeout):
                raise subprocess.TimeoutExpired(f"job {self.pid}", timeout or 0.0)
            self.returncode = self._server.status_of(self.pid)
            os.close(self._descriptor)
        return self.returncode


class _Server:
    """This process's end. Thread-safe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._imported: set[str] = set()
        self._importing: set[str] = set()
        self.is_gone = False
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = here
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(there.fileno()), str(IDLE_S)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=dict(environment), pass_fds=(there.fileno(),), start_new_session=True,
            )  # fmt: skip

    def is_ready(self, imports: Sequence[str]) -> bool:
        """Whether all that is imported, or it has ended; waits a moment for it."""
        with self._lock, contextlib.suppress(_Gone):
            if not self._importing and (missing := set(imports) - self._imported):
                self._send({"imports": sorted(missing)})
                self._importing = missing
            self._hear_of_imports(_POLL_MS)
            return set(imports) <= self._imported
        return True

    def start(self, asked: _Asked, errors: IO[bytes]) -> Copy:
        """Raises `_Gone`, or `NoCopy` where it says that it can't."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            (stdin_there, stdin), (stdout, stdout_there) = _pipe(), _pipe()
            for file in (stdin_there, stdout_there):
                theirs.enter_context(file)
            for file in (stdin, stdout):
                ours.enter_context(file)
            reply = self._ask(
                {
                    "module": asked.module, "argument": asked.argument, "folder": _folder(),
                    "own": {k: v for k, v in asked.environment.items() if k in _OWN},
                },
                (stdin_there.fileno(), stdout_there.fileno(), errors.fileno()),
            )  # fmt: skip
            if "why" in reply:
                raise NoCopy(reply["why"])
            try:
                made = Copy(reply["pid"], self, stdin, stdout)
            except ProcessLookupError:  # not even a zombie is left: the server itself has ended
                raise _Gone from None
            ours.pop_all()
            return made

    def status_of(self, pid: int) -> int:
        """Of a job that has ended; where nobody knows it any more, the likeliest."""
        try:
            return int(self._ask({"ended": pid})["status"])
        except _Gone:
            return -signal.SIGKILL

    def _ask(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            self._hear_of_imports(None)
            self._send(message, fds)
            return self._receive()

    def _hear_of_imports(self, up_to_ms: int | None) -> None:
        if self.is_gone:
            raise _Gone
        if not self._importing:
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if poll.poll(up_to_ms):
            self._receive()
            self._imported |= self._importing
            self._importing = set()

    def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        if self.is_gone:
            raise _Gone
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], fds)
        except OSError as error:
            self._let_go()
            raise _Gone from error

    def _receive(self) -> dict[str, Any]:
        try:
            said = self._socket.recv(_LONGEST)
        except OSError:
            said = b""
        if not said:
            self._let_go()
            raise _Gone
        return dict(json.loads(said))

    def end(self) -> None:
        """End it, and with it the jobs that are its copies."""
        self._process.kill()  # whoever waits for its answer hears of that, and lets go of the lock
        with self._lock:
            if not self.is_gone:
                self._let_go()

    def _let_go(self) -> None:
        self.is_gone = True
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


_lock = threading.Lock()
_servers: dict[frozenset[tuple[str, str]], _Server] = {}


def _server(asked: _Asked) -> _Server:
    """The one for its environment, started where there is none."""
    with _lock:
        for common, one in list(_servers.items()):
            if one.is_gone:
                del _servers[common]
        if asked.common not in _servers:
            _servers[asked.common] = _Server(dict(asked.common))
        return _servers[asked.common]


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    """Its ends to read and to write."""
    reads, writes = os.pipe()
    return os.fdopen(reads, "rb"), os.fdopen(writes, "wb", buffering=0)


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it; a job names all its files in full
        return "/"


def _end_all() -> None:
    """At the interpreter's exit."""
    for one in _servers.values():
        one.end()


def _forget() -> None:
    """In a fork: the servers are the parent's."""
    global _lock
    _lock = threading.Lock()
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_end_all)


# -- the server ----------------------------------------------------------------------------------


def _serve(asked: socket.socket, up_to_s: float) -> tuple[str, str] | None:
    """Answers until nobody asks any more: then None. In a copy: the module to run and its
    argument."""
    parent, jobs, idle_s = os.getppid(), set[int](), 0.0
    poll = select.poll()
    poll.register(asked, select.POLLIN)
    while os.getppid() == parent and (jobs or idle_s < up_to_s):
        if not poll.poll(_POLL_MS):
            idle_s += _POLL_MS / 1e3
            continue
        said, fds, _, _ = socket.recv_fds(asked, _LONGEST, 3)
        if not said:
            break
        idle_s, message = 0.0, json.loads(said)
        if "ended" in message:
            jobs.discard(message["ended"])
            _, status = os.waitpid(message["ended"], 0)
            _send(asked, {"status": os.waitstatus_to_exitcode(status)})
            continue
        if "imports" in message:
            for name in message["imports"]:
                with contextlib.suppress(Exception):  # the job that needs it will say so
                    importlib.import_module(name)
            _send(asked, {})
            continue
        pid, why = _fork(asked, message, fds)
        if pid == 0:
            return message["module"], message["argument"]
        for descriptor in fds:
            os.close(descriptor)
        if pid is not None:
            jobs.add(pid)
        _send(asked, {"why": why} if pid is None else {"pid": pid})
    return None


def _fork(
    asked: socket.socket, message: Mapping[str, Any], fds: Sequence[int]
) -> tuple[int | None, str]:
    """The process of the copy, which has its own session and streams by then; 0 within it. None
    where there is none, and why."""
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        return None, f"it must have one thread to be copied, got {threads}"
    gc.collect()
    gc.freeze()  # a collection in the copy would write to every object's header
    begun, begins = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(begun)
        os.close(begins)
        return None, str(error)
    if pid:
        os.close(begins)
        os.read(begun, 1)  # ends once the copy has closed its own
        os.close(begun)
        return pid, ""
    try:
        asked.close()
        os.close(begun)
        os.setsid()
        for descriptor, wanted in zip(fds, (0, 1, 2), strict=True):
            os.dup2(descriptor, wanted)
            os.close(descriptor)
        os.environ.update(message["own"])
        tempfile.tempdir = None  # what it found before
        os.chdir(message["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(begins)
    except BaseException:
        os._exit(1)  # it must not go on as a second server
    return 0, ""


def _send(asked: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        asked.send(json.dumps(message).encode())


def _main(descriptor: int, up_to_s: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    be_named(NAME)
    wake_with_parent()
    job = _serve(socket.socket(fileno=descriptor), up_to_s)
    if job is not None:
        module, argument = job
        sys.argv = [module, argument]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), float(sys.argv[2]))
