"""The process ends with the code asked for, whatever waits, and a fork never waits for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import os, sys, threading, torch, evolve

class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(6)))
    def forward(self, x, told=None):
        return self.layers(x)

X = torch.ones(1, 256)

def wrapped(kind):
    # An argument that nothing is known about spares the capture: the original serves. Workers in
    # processes of their own are there only for a model that was captured.
    example = (X, object()) if kind == "thread" else (X,)
    config = evolve.Config().replace(plans={"build": False}, workers={"kind": kind, "count": 2})
    runtime = evolve.wrap(Layers().eval(), example, slo=evolve.SLO(600_000.0), config=config)
    assert runtime.wait_for_plans(100)
    return runtime
"""

ENDS = {
    "sys.exit(7)": 7,
    "runtime = None; sys.exit(0)": 0,
    "raise ValueError('theirs')": 1,
    "futures[0].add_done_callback(lambda f: runtime(X)); sys.exit(3)": 3,
}
"""How a process ends while 2,000 requests wait, and the code it is to end with."""

# Imports once for all: each round is a fork that has neither wrapped nor computed before.
EACH_IN_A_FORK = """
import torch.export, evolve.wrapping
for end in ENDS:
    child = os.fork()
    if child == 0:
        runtime = wrapped(KIND)
        futures = [runtime.submit(X) for _ in range(2000)]
        exec(end)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(body: str, kind: str = "") -> subprocess.CompletedProcess[str]:
    wrap = f"runtime = wrapped({kind!r})\n" if kind else ""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{PRELUDE}\n{wrap}{body}"],
        cwd=root, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "ends"), [("thread", [*ENDS]), ("process", [*ENDS][2:])])
def test_the_exit_code_is_the_one_asked_for(kind: str, ends: list[str]) -> None:
    ended = run(f"ENDS, KIND = {ends!r}, {kind!r}\n{EACH_IN_A_FORK}")
    assert [int(code) for code in ended.stdout.split()] == [ENDS[e] for e in ends], ended.stderr
    assert "terminate called" not in ended.stderr


def test_threads_that_are_waited_for_are_served_to_their_end() -> None:
    body = """
main = threading.main_thread()

def late():
    main.join()
    print(runtime(X).shape[0], runtime.submit(X).result().shape[0])

threading.Thread(target=late).start()
"""
    ended = run(body, "thread")
    assert (ended.returncode, ended.stdout.split()) == (0, ["1", "1"]), ended.stderr


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_fork_says_whose_the_runtime_is_and_harms_nobody(kind: str) -> None:
    body = """
pid = os.getpid()
waiting = [runtime.submit(X) for _ in range(200)]
child = os.fork()
if child == 0:
    for ask in (lambda: runtime(X), lambda: runtime.submit(X), runtime.status):
        try:
            ask()
        except evolve.RuntimeClosed as error:
            assert f"belongs to process {pid}" in str(error), error
        else:
            os._exit(9)
    runtime.close()
    with runtime:
        pass
    sys.exit(5)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, sum(len(future.result()) for future in waiting), len(runtime(X)))
"""
    ended = run(body, kind)
    assert (ended.returncode, ended.stdout.split()) == (0, ["5", "200", "1"]), ended.stderr


def test_a_fork_may_wrap_the_model_again() -> None:
    body = """
torch.set_num_threads(1)  # a fork of a process whose OpenMP has run can't use it again
child = os.fork()
if child == 0:
    with wrapped("thread") as again:
        sys.exit(len(again(X)) + len(again.submit(X).result()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = run(body, "thread")
    assert (ended.returncode, ended.stdout.split()) == (0, ["2"]), ended.stderr


def test_workers_end_with_their_parent_though_a_fork_of_it_lives() -> None:
    done = run(
        """
import signal, time
pids = [lane.worker.pid for lane in runtime.parts.pool.lanes]
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    os.read(reading, 1)  # until the very end of the test
    os._exit(0)
print(child, *pids, flush=True)
os.close(reading)
held = os.dup(writing)
os.set_inheritable(held, True)
watcher = os.fork()
if watcher == 0:  # sees what becomes of the workers, and ends the child
    os.close(writing)
    for _ in range(600):
        alive = [p for p in pids if os.path.exists(f"/proc/{p}")]
        if not alive and os.getppid() != 0:
            break
        time.sleep(0.05)
    print("left:", alive, "child:", os.path.exists(f"/proc/{child}"), flush=True)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
""",
        kind="process",
    )
    assert done.returncode == -9, done.stderr
    assert "left: [] child: True" in done.stdout, done.stdout
