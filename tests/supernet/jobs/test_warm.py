"""A job may be a copy of a process that has imported what it needs: nobody could tell, but by time.

That it ends in any way as a fresh process does: test_jobs.py runs with both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from supernet.jobs import warm
from supernet.jobs.errors import JobCancelled, JobKilled
from supernet.jobs.process import Terms, run_job
from supernet.jobs.progress import Stage
from tests.supernet.jobs.errand import Request
from tests.supernet.jobs.test_jobs import has_ended
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process descriptors are Linux's")


@pytest.fixture
def terms(tmp_path: Path) -> Iterator[Terms]:
    warm._end_all()
    yield Terms(tmp_path, budget_s=60.0, imports=("json",))
    warm._end_all()


def servers() -> list[psutil.Process]:
    children = psutil.Process().children()
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if child.name() == warm.NAME]


def test_jobs_one_after_the_other_are_copies_of_one_process(terms: Terms) -> None:
    found = [run_job(Request("parent"), terms) for _ in range(2)]
    (server,) = servers()
    assert [one["parent"] for one in found] == [server.pid] * 2
    assert found[0]["pid"] != found[1]["pid"]
    assert found[0]["session"] == found[0]["pid"]
    assert found[0]["folder"] == os.getcwd()


def test_another_environment_needs_another_process(
    terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run_job(Request("parent"), terms)
    monkeypatch.setenv("EVOLVE_TESTED", "here")
    other = run_job(Request("parent"), terms)
    assert one["parent"] != other["parent"]
    assert (one["tested"], other["tested"]) == (None, "here")


def test_what_cannot_be_copied_is_a_fresh_process(terms: Terms) -> None:
    threaded = Terms(terms.scratch, 60.0, imports=("tests.supernet.jobs.starts_a_thread",))
    assert run_job(Request("parent"), threaded)["parent"] == os.getpid()
    two = Terms(terms.scratch, 60.0, threads=2, imports=("json",))
    assert run_job(Request("parent"), two)["parent"] == os.getpid()


def test_an_import_that_fails_is_the_jobs_own_affair(terms: Terms) -> None:
    missing = Terms(terms.scratch, 60.0, imports=("no_such_module",))
    assert run_job(Request("parent"), missing)["parent"] == servers()[0].pid


def test_a_server_that_is_killed_takes_its_job_along_and_the_next_finds_another(
    terms: Terms, tmp_path: Path
) -> None:
    def kill(stage: Stage) -> None:
        (server,) = servers()
        server.kill()

    dying = Terms(terms.scratch, 60.0, imports=("json",), on_progress=kill)
    with pytest.raises(JobKilled):
        run_job(Request("hang", str(tmp_path)), dying)
    for pid in json.loads((tmp_path / "pids").read_text()):
        assert eventually(lambda: has_ended(pid))  # noqa: B023
    assert run_job(Request("parent"), terms)["parent"] == servers()[0].pid


def test_a_server_that_dies_while_it_imports_is_replaced(terms: Terms) -> None:
    """Nobody is told: another is asked, and where that dies, too, the job is a fresh process."""
    never = ("tests.supernet.jobs.never_imported",)

    def kills() -> bool:
        for server in servers():
            server.kill()
        return False

    dying = Terms(terms.scratch, 60.0, imports=never, cancelled=kills)
    with ThreadPoolExecutor(2) as both:  # who waits for the other's imports hears of it, too
        jobs = [both.submit(run_job, Request("parent"), dying) for _ in range(2)]
        assert [job.result(60)["parent"] for job in jobs] == [os.getpid()] * 2


def test_it_can_be_cancelled_while_it_imports(terms: Terms) -> None:
    slow = Terms(
        terms.scratch, 60.0, imports=("tests.supernet.jobs.never_imported",),
        cancelled=lambda: bool(servers()),
    )  # fmt: skip
    with pytest.raises(JobCancelled):
        run_job(Request("parent"), slow)


def test_it_ends_when_nobody_asks_any_more(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "IDLE_S", 0.3)
    found = run_job(Request("parent"), terms)
    assert eventually(lambda: not servers())
    assert run_job(Request("parent"), terms)["parent"] != found["parent"]


def test_it_ends_with_its_parent_though_a_fork_of_that_lives(tmp_path: Path) -> None:
    """The fork holds a copy of the socket, too."""
    script = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        from supernet.jobs.process import Terms, run_job
        from tests.supernet.jobs.errand import Request
        found = run_job(Request("parent"), Terms(Path({str(tmp_path)!r}), 60.0, imports=("json",)))
        fork = os.fork()
        if fork == 0:
            own = run_job(
                Request("parent"), Terms(Path({str(tmp_path)!r}), 60.0, imports=("json",))
            )
            print("fork", own["parent"] != found["parent"], flush=True)
            signal.pause()
        print("pids", fork, found["parent"], flush=True)
        signal.pause()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        lines = sorted(parent.stdout.readline().split() for _ in range(2))
        assert lines[0] == ["fork", "True"], "a fork has a server of its own"
        fork, server = (int(number) for number in lines[1][1:])
        parent.kill()
        assert eventually(lambda: has_ended(server))
        assert not has_ended(fork)
        os.kill(fork, signal.SIGKILL)
