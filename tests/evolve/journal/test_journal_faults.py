"""Threads, kills, full disks: nothing that was returned is lost, and the service goes on."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from evolve.journal.file import JournalFile
from evolve.journal.journal import Journal, Verdict, read, verify
from evolve.journal.reader import segments
from evolve.journal.record import encode
from tests.evolve.journals import Clock, journal_at, tick


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_appends_from_many_threads_are_all_there_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    start = threading.Barrier(8)
    with journal_at(path, max_mib=0.03) as journal:

        def work() -> None:
            start.wait()
            for number in range(20):
                tick(journal, number)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [d.seq for d in journal.last(1_000)] == list(range(1, 161))
    numbers = [d.seq for segment in segments(path) for d in read(segment)]
    assert numbers[-1] == 160
    assert all(verify(segment).intact for segment in segments(path))


def _append_and_die(path: Path) -> None:
    journal = Journal(path, device="cpu")
    for number in range(50):
        tick(journal, number)
    os.kill(os.getpid(), 9)


def test_nothing_that_append_returned_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=_append_and_die, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert verify(path) == Verdict(50, 1, 50, 0, ())
    with journal_at(path) as journal:
        assert tick(journal).seq == 51


class FullDisk:
    """`os.write` on a disk with so many bytes left: it writes what fits, then ENOSPC."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1 << 40
        self._write = os.write
        monkeypatch.setattr("evolve.journal.file.os.write", self)

    def __call__(self, fd: int, data: Any) -> int:
        if self.free <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(fd, bytes(data)[: self.free])
        self.free -= written
        return written


@pytest.mark.parametrize("free", [0, 1, 100, 400, 500])
def test_a_full_disk_stops_nothing_and_loses_nothing(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    path = tmp_path / "journal.jsonl"
    disk = FullDisk(monkeypatch)
    journal = journal_at(path, clock)
    tick(journal)
    disk.free = free
    for number in range(5):
        tick(journal, number)
    assert journal.fault == f"{path}: No space left on device"
    assert verify(path).intact, "a write that failed half-way must be taken back"
    assert len(journal.last(10)) == 6

    disk.free = 1 << 40
    tick(journal)
    assert journal.fault is not None, "it is not tried again before its time"
    clock.now_s += 1.0
    tick(journal)
    assert journal.fault is None
    journal.close()
    assert verify(path) == Verdict(9, 1, 9, 0, ())
    last = list(read(path))[-1]
    assert last.subject == "journal"
    assert last.reason == (f"writing again after: {path}: No space left on device; none is lost")


def test_retries_grow_apart_while_the_disk_stays_full(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_at(tmp_path / "journal.jsonl", clock)
    tries: list[float] = []

    def full(fd: int, data: Any) -> int:
        tries.append(clock.now_s - 100.0)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evolve.journal.file.os.write", full)
    for _ in range(800):
        tick(journal)
        clock.now_s += 0.125
    assert [round(t) for t in tries] == [0, 1, 3, 7, 15, 31, 61, 91]


def test_what_memory_cannot_hold_is_counted_and_said(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    disk = FullDisk(monkeypatch)
    journal = journal_at(path, clock, keep=10)
    disk.free = 0
    for number in range(30):
        tick(journal, number)
    disk.free = 1 << 40
    journal.close()
    found = list(read(path))
    assert [d.seq for d in found] == [*range(21, 31), 31]
    assert "20 decisions did not fit in memory and are missing" in found[-1].reason


def test_a_failing_sync_is_a_fault_and_not_an_error(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_at(tmp_path / "journal.jsonl", clock)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("evolve.journal.file.os.fsync", broken)
        journal.sync()
    assert journal.fault is not None
    assert journal.fault.endswith("Input/output error")
    journal.sync()
    assert journal.fault is None


def test_a_rename_that_fails_leaves_the_old_file_in_place(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path, clock, max_mib=600 / 2**20)
    tick(journal)

    def broken(old: object, new: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("evolve.journal.file.os.replace", broken)
        tick(journal)
        assert journal.fault is not None
    assert verify(path).records == 1
    clock.now_s += 1.0
    tick(journal)
    journal.close()
    assert journal.fault is None
    assert verify(path).intact


def test_the_file_object_takes_back_what_a_failed_cut_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    file = JournalFile(path, max_bytes=1 << 20)
    lines = [encode(d) for d in (tick(journal_at(None)), tick(journal_at(None)))]
    file.write(lines[0])
    disk = FullDisk(monkeypatch)
    disk.free = 7

    def no_cut(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("evolve.journal.file.os.ftruncate", no_cut)
        with pytest.raises(OSError, match="No space left"):
            file.write(lines[1])
    assert path.stat().st_size == len(lines[0]) + 7
    disk.free = 1 << 20
    file.write(lines[1])
    file.close()
    assert path.read_bytes() == b"".join(lines)
