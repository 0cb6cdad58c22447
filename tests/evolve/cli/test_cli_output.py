"""The command line's output on terminals, files and pipes that are not UTF-8, full or open."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolve.cli import main
from evolve.journal.journal import Journal
from tests.evolve.journals import filled

ROOT = Path(__file__).parents[3]
CURVES = "Ratio × 2 – “quoted” ± 3 µs → 4²…"
SIMULATED = ("simulate", "--seconds", "1", "--seeds", "2", "--policies", "rule")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    with Journal(path, device="cpu-1a2b", clock=lambda: 1.0, wall=lambda: 1.7e9) as kept:
        kept.append("worker", "process-1", reason=CURVES)
    return path


def printed(encoding: str, *argv: object) -> bytes:
    """What a command writes to a strict stdout of this encoding; stderr must stay silent."""
    out, err = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "160")
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding=encoding))
        status = main([str(part) for part in argv])
        assert (sys.stdout.errors, sys.stderr.errors) == ("strict", "strict")
        sys.stderr.flush()
        assert (status, err.getvalue().strip()) == (0, b"")
        return out.getvalue()


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("ascii", "Ratio x 2 - ?quoted? +- 3 us -> 42..."),
        ("cp1252", "Ratio × 2 – “quoted” ± 3 µs -> 4²…"),
        ("utf-8", CURVES),
    ],
)
def test_what_an_encoding_lacks_is_told_in_ascii(journal: Path, encoding: str, told: str) -> None:
    assert told in printed(encoding, "log", journal).decode(encoding)
    assert told in printed(encoding, "log", journal, "--explain", 1).decode(encoding)


def test_tables_are_told_in_ascii(tmp_path: Path) -> None:
    table = printed("ascii", *SIMULATED, "--rate", "100").decode("ascii")
    assert "+-" in table  # the spread over the seeds
    assert "?" not in table  # not even of the frame
    for command in ("simulate", "log", "plans", "profile", "train", "demo"):
        assert "Usage" in printed("ascii", command, "--help").decode("ascii")
    assert printed("ascii", "profile", "--no-measure", "--cache", tmp_path).decode("ascii")


def test_a_name_that_is_no_text_is_told(tmp_path: Path, journal: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd-\xff.jsonl")
    journal.rename(odd)
    assert b"odd-?.jsonl: 1 records" in printed("utf-8", "log", odd, "--verify")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_process_told_another_encoding_ends_well(journal: Path, encoding: str) -> None:
    own = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C", "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "evolve", "log", str(journal)],
        cwd=ROOT, env={**os.environ, **own}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert "2 - " in done.stdout.decode(encoding)


@pytest.mark.parametrize("more", [("--tail", "0"), ("--tail", "0", "--json"), ("--verify",)])
def test_a_reader_that_has_had_enough_is_no_failure(tmp_path: Path, more: tuple[str, ...]) -> None:
    path = tmp_path / "long.jsonl"
    filled(path, 400)
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does in the end
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "evolve", "log", str(path), *more],
            cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_into_a_closed_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "evolve", "--help"],
            cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
