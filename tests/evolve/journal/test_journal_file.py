"""Whose file it is, where it may be, how it goes on and is renamed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from evolve.journal.journal import JournalError, Verdict, read, verify
from evolve.journal.reader import segments
from tests.evolve.journals import filled, journal_at, tick


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    with journal_at(path) as journal:
        assert tick(journal).seq == 4
        assert [d.seq for d in journal.last(9)] == [4]
    assert verify(path).intact


def test_the_file_is_for_its_owner_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "journal.jsonl"
    filled(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_file_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\nwith two lines\n")
    with pytest.raises(JournalError, match=r"must be a journal or a new file, got .*notes.txt"):
        journal_at(path)
    assert path.read_text() == "my notes\nwith two lines\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_of_a_newer_version_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    body = path.read_bytes()[:-19].replace(b'"v":1', b'"v":2') + b"}"
    line = body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)
    path.write_bytes(line)
    with pytest.raises(JournalError, match=r"must be of this version.*schema version 2 is newer"):
        journal_at(path)
    assert path.read_bytes() == line


@pytest.mark.parametrize("kind", ["folder", "fifo", "below a file"])
def test_a_path_that_cannot_hold_a_journal_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("")
        path = path / "journal.jsonl"
    with pytest.raises(JournalError, match=r"journal path must be a .*file.*, got .*thing"):
        journal_at(path)


def test_two_runtimes_cannot_share_a_path(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with (
        journal_at(path),
        pytest.raises(JournalError, match=r"one runtime at a time.*give each runtime a path"),
    ):
        journal_at(path)
    journal_at(path).close()


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"can be read, got .*nowhere \(No such file"):
        list(read(tmp_path / "nowhere"))
    with pytest.raises(JournalError, match="can be read"):
        verify(tmp_path)


def test_a_full_file_is_renamed_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with journal_at(path, max_mib=4_000 / 2**20) as journal:
        last = [tick(journal, number) for number in range(40)][-1].seq
        with pytest.raises(JournalError, match="one runtime at a time"):
            journal_at(path)
    assert segments(path) == (tmp_path / "journal.jsonl.1", path)
    assert all(segment.stat().st_size <= 4_000 for segment in segments(path))
    numbers = [d.seq for segment in segments(path) for d in read(segment)]
    assert numbers == list(range(numbers[0], last + 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.jsonl", "journal.jsonl.1"]
    path.write_bytes(b"")  # a stop right after the rename
    with journal_at(path) as journal:
        assert tick(journal).seq == max(d.seq for d in read(segments(path)[0])) + 1


def test_after_close_nothing_is_recorded(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "journal.jsonl")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="must be open to append to, but it was closed"):
        tick(journal)


def test_a_file_that_others_may_read_is_theirs_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    path.chmod(0o666)
    with journal_at(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_cut_by_a_rotation_is_gone_on_with_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with journal_at(path) as journal:
        for number in range(5):
            tick(journal, number)
        copied = path.read_bytes()
        os.truncate(path, 0)  # `copytruncate`
        tick(journal)
        tick(journal)
        assert journal.fault is None
    assert [d.seq for d in read(path)] == [6, 7, 8]
    assert verify(path).intact
    told = [d for d in read(path) if d.subject == "journal"]
    assert f"cut from outside, from {len(copied)} to 0 bytes" in told[0].reason
    assert b"\0" not in path.read_bytes()


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_file_that_is_gone_is_begun_anew_and_nothing_is_swallowed(
    tmp_path: Path, how: str
) -> None:
    path, old = tmp_path / "journal.jsonl", tmp_path / "rotated"
    with journal_at(path) as journal:
        tick(journal)
        if how == "deleted":
            path.unlink()
        else:
            path.rename(old)
        if how == "replaced":
            path.touch()
        tick(journal)
        tick(journal)
        assert journal.fault is None
        with pytest.raises(JournalError, match="one runtime at a time"):
            journal_at(path)
    assert [d.seq for d in read(path)] == [2, 3, 4]
    assert any("from outside; it goes on at the path" in d.reason for d in read(path))
    if how != "deleted":
        assert [d.seq for d in read(old)] == [1]


def test_another_file_put_in_its_place_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with journal_at(path) as journal:
        tick(journal)
        path.unlink()
        path.write_text("somebody's shopping list\n")
        tick(journal)
        assert journal.fault is not None
        assert "holds no decision" in journal.fault
    assert path.read_text() == "somebody's shopping list\n"


def test_a_fork_leaves_the_journal_to_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with journal_at(path) as journal:
        for number in range(200):
            tick(journal, number)
        child = os.fork()
        if child == 0:
            try:
                with journal:
                    tick(journal)
                told = journal.fault is not None and "is a fork of" in journal.fault
                os._exit(0 if told else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for number in range(200):
            tick(journal, number)
        assert journal.fault is None
    assert verify(path) == Verdict(400, 1, 400, 0, ())


def test_a_fork_does_not_keep_the_file_locked(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = journal_at(path)
    tick(journal)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # lives until the parent is done
        os._exit(0)
    try:
        journal.close()
        with journal_at(path) as again:
            assert tick(again).seq == 2
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)
