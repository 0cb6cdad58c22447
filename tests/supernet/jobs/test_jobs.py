"""A job ends in any way it likes: whoever waits has its result or an error by name, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from supernet.jobs.checkpoints import Checkpoints
from supernet.jobs.child import Say
from supernet.jobs.errors import (
    BadRequest,
    JobCancelled,
    JobCrashed,
    JobFailed,
    JobKilled,
    JobOutOfDisk,
    JobOutOfMemory,
    JobOutOfTime,
    JobRaised,
    JobRefused,
    JobStopped,
    named,
)
from supernet.jobs.pausing import Pauses
from supernet.jobs.process import Terms, run_job
from supernet.jobs.progress import Pace, Stage
from tests.supernet.jobs.errand import Request
from tests.waiting import eventually

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are stopped on Linux")


@pytest.fixture(params=["fresh", pytest.param("copy", marks=on_linux)])
def terms(tmp_path: Path, request: pytest.FixtureRequest) -> Terms:
    (tmp_path / "scratch").mkdir()
    imports = ("json",) if request.param == "copy" else ()
    return Terms(tmp_path / "scratch", budget_s=60.0, imports=imports)


def change(terms: Terms, **changes: Any) -> Terms:
    return replace(terms, **changes)


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_its_result_is_its_own_whatever_else_is_printed(terms: Terms) -> None:
    told: list[Stage] = []
    found = run_job(Request("result"), change(terms, threads=3, on_progress=told.append))
    assert told == [Stage("counting", 0.5, None)]
    assert found["niceness"] == min(19, os.nice(0) + 10)
    assert found["threads"] == "3"
    assert Path(found["temporary"]).parent == terms.scratch
    assert list(terms.scratch.iterdir()) == [], "what it left for a while is gone"


@on_linux
def test_were_memory_short_it_would_go_first(terms: Terms) -> None:
    assert run_job(Request("result"), terms)["goes_first"] == "1000"


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [
        ("refuse", JobRefused, r"^nothing to do here$"),
        ("raise", JobRaised, r"^KeyError: 'a mistake\\nof two lines'$"),
        ("no json", JobRaised, r"^TypeError: Object of type set is not JSON serializable$"),
        ("unheard of", JobRaised, r"^KeyError: 'unheard of'$"),
        ("crash", JobCrashed, r"^it crashed with SIGSEGV: what the engine said last$"),
        ("crash at exit", JobCrashed, r"^it crashed with SIGSEGV$"),
        ("aborted", JobCrashed, r"^it crashed with SIGABRT$"),
        ("leave", JobFailed, r"^its process ended with status 3: it had enough$"),
        ("file", JobFailed, r"^FileNotFoundError: .*twin\.npz"),
        ("memory", JobOutOfMemory, r"^MemoryError: 1 TiB$"),
        ("torch memory", JobOutOfMemory, r"^RuntimeError: \[enforce fail\] .*can't allocate"),
        ("cache full", JobOutOfDisk, r"^no room left for /cache$"),
        ("disk full", JobOutOfDisk, r"^OSError: .*No space left on device$"),
        ("wrong", BadRequest, r"^steps must be even, got 7$"),
        ("killed", JobKilled, r"^its process was killed \(SIGKILL\)$"),
        ("terminated", JobKilled, r"^its process was killed \(SIGTERM\)$"),
    ],
)
def test_each_end_without_a_result_has_a_name(
    terms: Terms, end: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        run_job(Request(end), terms)
    assert type(caught.value) is error
    assert list(terms.scratch.iterdir()) == []


def test_a_request_that_its_rules_forbid_is_bad(terms: Terms) -> None:
    asked = Request("result")
    object.__setattr__(asked, "steps", -1)
    with pytest.raises(BadRequest, match=r"job\.json is not one: steps must be at least 0, got -1"):
        run_job(asked, terms)


@dataclass(frozen=True)
class Other:
    ends: str


def test_a_request_of_other_fields_is_bad(terms: Terms) -> None:
    Other.__module__ = Request.__module__
    with pytest.raises(BadRequest, match="unexpected keyword argument 'ends'"):
        run_job(Other("result"), terms)


def test_started_by_hand_without_a_request_it_says_how(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.supernet.jobs.errand"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "usage: python -m MODULE JOB.json\n")


def pids(place: Path) -> list[int]:
    return [int(pid) for pid in json.loads((place / "pids").read_text())]


def test_out_of_time_it_ends_with_all_it_started(terms: Terms, tmp_path: Path) -> None:
    now_s = [0.0]

    def hangs(stage: Stage) -> None:
        now_s[0] = 61.0

    late = change(terms, pauses=Pauses(clock=lambda: now_s[0]), on_progress=hangs)
    with pytest.raises(JobOutOfTime, match=r"^it took longer than 60 s$"):
        run_job(Request("hang", str(tmp_path)), late)
    assert all(eventually(lambda pid=pid: has_ended(pid)) for pid in pids(tmp_path))


def test_jobs_that_share_a_budget_count_from_its_beginning(terms: Terms) -> None:
    began_s = terms.pauses.running_s() - 61.0
    with pytest.raises(JobOutOfTime, match=r"^it took longer than 60 s$"):
        run_job(Request("result"), change(terms, since_s=began_s))


def test_cancelled_it_ends_with_all_it_started(terms: Terms, tmp_path: Path) -> None:
    with pytest.raises(JobCancelled, match=r"^it was cancelled$"):
        run_job(Request("hang", str(tmp_path)), change(terms, cancelled=(tmp_path / "pids").exists))
    assert all(eventually(lambda pid=pid: has_ended(pid)) for pid in pids(tmp_path))


@on_linux
def test_it_stands_still_while_it_is_held_and_goes_on(terms: Terms, tmp_path: Path) -> None:
    pauses = Pauses(patience_s=0.0)
    stood_still: list[bool] = []

    def hold(stage: Stage) -> None:
        pauses.hold("serving")

    def has_stood_still_and_goes_on() -> bool:
        if not (tmp_path / "pids").exists():
            return False
        is_stopped = psutil.Process(pids(tmp_path)[0]).status() == psutil.STATUS_STOPPED
        if is_stopped and not stood_still:
            stood_still.append(True)
            pauses.let_go("serving")
        return bool(stood_still) and not is_stopped

    held = change(
        terms, pauses=pauses, on_progress=hold, cancelled=has_stood_still_and_goes_on
    )  # fmt: skip
    with pytest.raises(JobCancelled):
        run_job(Request("hang", str(tmp_path)), held)
    assert stood_still


def test_asked_to_stop_it_stops_at_a_checkpoint_and_goes_on_from_there(
    terms: Terms, tmp_path: Path
) -> None:
    keep, told = tmp_path / "kept", list[Stage]()
    kept = change(terms, keep=keep, on_progress=told.append)
    stopping = change(kept, stopping=lambda: len(told) == 4)
    with pytest.raises(JobStopped, match=r"^it stopped at a checkpoint$"):
        run_job(Request("count", steps=8), stopping)
    assert [path.name for path in keep.iterdir()] == ["00000001"]
    assert run_job(Request("count", steps=8), kept) == {"began": 4, "done": 8}
    assert [stage.share for stage in told] == [n / 8 for n in range(1, 9)]
    assert not keep.exists(), "there is a result"


def test_without_a_folder_to_keep_it_a_stop_is_the_end(terms: Terms) -> None:
    with pytest.raises(JobStopped):
        run_job(Request("count", steps=8), change(terms, stopping=lambda: True))


def saving(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "state").write_text(text) and None


def test_a_checkpoint_is_of_one_request_and_whole_or_not_there(tmp_path: Path) -> None:
    asked = Checkpoints(tmp_path / "kept", {"steps": 1})
    assert asked.newest() is None
    asked.add(saving("first"))

    def fails(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise OSError("the disk fails")

    with pytest.raises(OSError, match="the disk fails"):
        asked.add(fails)
    first = asked.newest()
    assert first is not None
    assert (first / "state").read_text() == "first"
    assert Checkpoints(tmp_path / "kept", {"steps": 2}).newest() is None
    (first / "state").write_text("damaged")
    assert asked.newest() is None
    asked.add(saving("second"))
    second = asked.newest()
    assert second is not None
    assert (second / "state").read_text() == "second"
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["00000002"]


def test_states_are_saved_once_a_minute_and_before_a_stop(tmp_path: Path) -> None:
    now_s, is_asked = [0.0], [False]
    kept = Checkpoints(tmp_path, {})
    say = Say(lambda record: None, kept, lambda: is_asked[0], lambda: now_s[0])
    say.checkpoint(saving("at once"))
    assert say.resumed() is None
    now_s[0] = 60.0
    say.checkpoint(saving("after a minute"))
    now_s[0] = 119.0
    say.checkpoint(saving("too soon"))
    assert (say.resumed() or tmp_path / "none").joinpath("state").read_text() == "after a minute"
    is_asked[0] = True
    with pytest.raises(JobStopped):
        say.checkpoint(saving("the last"))
    assert (say.resumed() or tmp_path / "none").joinpath("state").read_text() == "the last"


def test_the_time_left_is_told_by_the_pace_of_this_stage() -> None:
    now_s = [0.0]
    pace = Pace(lambda: now_s[0])
    assert pace.update("training", 0.5) == Stage("training", 0.5, None), "it went on from there"
    now_s[0] = 10.0
    assert pace.update("training", 0.6).left_s == pytest.approx(40.0)
    assert pace.update("judging", 0.0).left_s is None
    now_s[0] = 15.0
    assert pace.update("judging", 0.5).left_s == pytest.approx(5.0)
    assert pace.update("judging", 1.0).left_s == 0.0


def test_errors_of_no_job_are_not_named() -> None:
    assert named("JobStopped") is JobStopped
    assert {named(name) for name in ("named", "SupernetError", "KeyError", "")} == {JobFailed}
