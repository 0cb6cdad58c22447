"""Processes stand still on demand, go on, and end with their parent even while stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from supernet.jobs.pausing import Pauses
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are stopped on Linux")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], start_new_session=True
    )  # fmt: skip
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def is_stopped(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


class Clock:
    now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


def test_a_held_process_stands_still_and_goes_on(child: subprocess.Popen[bytes]) -> None:
    pauses = Pauses(patience_s=0.0)
    with pauses.including(child.pid):
        assert not is_stopped(child.pid)
        pauses.hold("serving")
        pauses.hold("serving")
        assert eventually(lambda: is_stopped(child.pid))
        pauses.resume()
        assert is_stopped(child.pid), "there is a reason still"
        pauses.let_go("serving")
        pauses.let_go("serving")
        pauses.resume()
        assert eventually(lambda: not is_stopped(child.pid))


def test_every_reason_must_have_gone(child: subprocess.Popen[bytes]) -> None:
    pauses = Pauses(patience_s=0.0)
    with pauses.including(child.pid):
        pauses.hold("serving")
        pauses.hold("measuring")
        pauses.let_go("serving")
        pauses.let_go("never given")
        pauses.resume()
        assert eventually(lambda: is_stopped(child.pid))
        pauses.let_go("measuring")
        pauses.resume()
        assert eventually(lambda: not is_stopped(child.pid))


def test_they_go_on_only_after_a_while_without_any_reason() -> None:
    clock = Clock()
    pauses = Pauses(patience_s=0.01, clock=clock)
    pauses.hold("serving")
    pauses.let_go("serving")
    clock.now_s += 0.009
    pauses.resume()
    assert pauses.is_held
    pauses.hold("serving")
    pauses.let_go("serving")
    clock.now_s += 0.009
    pauses.resume()
    assert pauses.is_held, "the while begins anew"
    clock.now_s += 0.002
    pauses.resume()
    assert not pauses.is_held


def test_one_that_joins_while_held_stops_and_goes_on_when_it_leaves(
    child: subprocess.Popen[bytes],
) -> None:
    pauses = Pauses(patience_s=0.0)
    pauses.hold("serving")
    with pauses.including(child.pid):
        assert eventually(lambda: is_stopped(child.pid))
    assert eventually(lambda: not is_stopped(child.pid))
    pauses.let_go("serving")
    pauses.resume()
    pauses.hold("serving")
    assert not is_stopped(child.pid), "it has left"


def test_a_process_that_is_gone_is_no_error() -> None:
    pauses = Pauses(patience_s=0.0)
    gone = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    gone.wait()
    with pauses.including(gone.pid):
        pauses.hold("serving")
        pauses.let_go("serving")
        pauses.resume()
    assert not pauses.is_held


def test_the_clock_stands_still_with_the_processes() -> None:
    clock = Clock()
    pauses = Pauses(patience_s=0.0, clock=clock)
    pauses.hold("serving")
    clock.now_s = 15.0
    assert (pauses.running_s(), pauses.is_held) == (10.0, True)
    pauses.let_go("serving")
    pauses.resume()
    clock.now_s = 16.0
    assert (pauses.running_s(), pauses.is_held) == (11.0, False)


def test_followers_are_held_with_those_that_they_follow_and_are_free_at_the_end() -> None:
    pauses = Pauses(patience_s=0.0)
    pauses.hold("serving")
    with pauses.follower() as other:
        assert other.is_held
        pauses.let_go("serving")
        other.resume()
        assert not other.is_held
        pauses.hold("serving")
        assert other.is_held
    other.resume()
    assert not other.is_held
    pauses.let_go("serving")
    pauses.hold("serving")
    assert not other.is_held


def test_a_stopped_process_ends_when_its_parent_is_killed() -> None:
    inner = (
        "import time\n"
        "from supernet.jobs.child import follow_parent\n"
        "follow_parent()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    outer = (
        "import signal, subprocess, sys, os, time\n"
        "from supernet.jobs.pausing import Pauses\n"
        f"p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdin=subprocess.PIPE,\n"
        "    stdout=subprocess.PIPE, start_new_session=True)\n"
        "p.stdout.readline()\n"
        "pauses = Pauses(); pauses.hold('serving')\n"
        "with pauses.including(p.pid):\n"
        "    print(p.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    orphan = psutil.Process(int(parent.stdout.readline()))
    assert eventually(lambda: is_stopped(orphan.pid))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)


def test_a_process_ends_with_its_parent_though_a_fork_of_that_lives() -> None:
    inner = (
        "import time\n"
        "from supernet.jobs.child import follow_parent\n"
        "follow_parent()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    outer = (
        "import subprocess, sys, os, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdin=subprocess.PIPE,\n"
        "    stdout=subprocess.PIPE, start_new_session=True)\n"
        "p.stdout.readline()\n"
        "fork = os.fork()\n"
        "if fork:\n"
        "    print(p.pid, fork, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    orphan, fork = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
    try:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert eventually(
            lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        )
        assert fork.is_running()
    finally:
        fork.kill()
