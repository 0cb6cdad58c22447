"""The journal keeps every decision, tells damage from truth, and never stops the service."""

from __future__ import annotations

import copy
import errno
import json
import math
import multiprocessing
import os
import pickle
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.decision import Decision, RecordError, field_table, printable
from evolve.journal import Damage, Journal, JournalError, Verdict, read, verify
from evolve.log.file import JournalFile
from evolve.log.read import segments
from evolve.log.record import MAX_RECORD_BYTES, decode, encode

ROOT = Path(__file__).parents[2]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def journal_at(
    path: Path | None, clock: Callable[[], float] = lambda: 100.0, **options: Any
) -> Journal:
    return Journal(path, device="cpu-1a2b", clock=clock, wall=lambda: 1.7e9, **options)


def filled(path: Path, count: int) -> list[Decision]:
    with journal_at(path) as journal:
        return [tick(journal, i) for i in range(count)]


def tick(journal: Journal, number: int = 0) -> Decision:
    return journal.append(
        "tick",
        "dispatch",
        policy="rule",
        seen={"p99_ms": 12.5 + number, "queue": number},
        before={"name": "default", "spread": 1.5},
        after={"name": "surge", "spread": math.inf},
        reason=f"reason {number}",
        scores={"surge": 0.5},
    )


# -- what is recorded ---------------------------------------------------------------------------


def test_append_returns_what_a_reader_gets_back(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "journal.jsonl"
    with journal_at(path, clock) as journal:
        clock.now_s += 2.5
        first = tick(journal)
        second = journal.append("plan", "a", reason="b", applied=False)
    assert (first.seq, first.uptime_s, first.at) == (1, 2.5, "2023-11-14T22:13:20.000Z")
    assert first.device == "cpu-1a2b"
    assert first.seen == {"p99_ms": 12.5, "queue": 0.0}
    assert first.after == {"name": "surge", "spread": "inf"}
    assert not second.applied
    assert list(read(path)) == [first, second]


def test_a_line_is_json_with_version_and_a_crc_that_others_can_check(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    line = path.read_bytes()
    row = json.loads(line)
    assert list(row)[:2] == ["v", "seq"]
    assert list(row)[-1] == "crc"
    body = line[: line.rindex(b',"crc":"')] + b"}"
    assert row["crc"] == f"{zlib.crc32(body):08x}"


def test_without_a_path_it_keeps_the_last_ones_in_memory() -> None:
    journal = journal_at(None, keep=3)
    for number in range(5):
        tick(journal, number)
    assert [d.seq for d in journal.last(10)] == [3, 4, 5]
    assert [d.seq for d in journal.last(2)] == [4, 5]
    assert journal.last(0) == ()
    assert journal.path is None
    assert journal.fault is None


def test_a_decision_cannot_be_edited_but_copied() -> None:
    decision = tick(journal_at(None))
    with pytest.raises(AttributeError):
        decision.reason = "another"  # type: ignore[misc]
    with pytest.raises(TypeError):
        decision.seen["queue"] = 0.0  # type: ignore[index]
    assert pickle.loads(pickle.dumps(decision)) == decision
    assert copy.deepcopy(decision) == decision


def test_the_caller_keeps_no_hold_on_what_was_recorded() -> None:
    seen, after = {"queue": 1.0}, {"plans": ["a"]}
    decision = journal_at(None).append("tick", "x", seen=seen, after=after, reason="r")
    seen["queue"] = 9.0
    after["plans"].append("b")
    assert decision.seen == {"queue": 1.0}
    assert decision.after == {"plans": ("a",)}


def test_values_from_numpy_and_elsewhere_are_kept_as_json_can_say() -> None:
    decision = journal_at(None).append(
        "tick",
        "x",
        seen={"a": np.float32(0.5), "b": np.int64(3), "c": "no number", "d": math.inf},
        after={"n": np.int32(2), "f": np.float64(0.25), "p": Path("x"), "none": None, "yes": True},
        reason="r",
    )
    assert decision.seen["a"] == 0.5
    assert decision.seen["b"] == 3.0
    assert math.isnan(decision.seen["c"])
    assert decode(encode(decision)).seen["d"] == math.inf
    assert decision.after == {"n": 2, "f": 0.25, "p": "x", "none": None, "yes": True}


def test_an_object_that_cannot_be_shown_does_not_break_the_journal() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no")

    decision = journal_at(None).append("tick", "x", after={"bad": Bad()}, reason="r")
    assert decision.after["bad"] == "<unprintable Bad: RuntimeError>"


def test_kind_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of tick, plan, .*, got 'tock'"):
        journal_at(None).append("tock", "x", reason="r")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"max_mib": 0.0}, r"max_mib must be above 0, got 0\.0"),
        ({"max_mib": math.nan}, "max_mib must be above 0, got nan"),
    ],
)
def test_options_have_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        journal_at(None, **options)


# -- hostile content ----------------------------------------------------------------------------

HOSTILE = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x00\x07\x1b\x7f\x9b\n\r\u2028\u2029\u202e\u200b\ufeff\ud800\U000e0041"),
    )
)


@settings(max_examples=150)
@given(subject=HOSTILE, reason=HOSTILE, key=HOSTILE, value=HOSTILE)
def test_any_text_is_one_harmless_ascii_line_that_reads_back_equal(
    subject: str, reason: str, key: str, value: str
) -> None:
    decision = journal_at(None).append(
        "plan", subject, reason=reason, seen={key: 1.0}, after={key: [value]}
    )
    line = encode(decision)
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert decode(line) == decision
    shown = decision.subject + decision.reason + "".join(decision.seen) + "".join(decision.after)
    assert not any(c in shown for c in "\x00\x07\x1b\x7f\x9b\n\r\u2028\u2029\u202e\u200b\ufeff")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("red \x1b[31m", "red \\x1b[31m"),
        ("two\nlines\tand\r", "two\\nlines\\tand\\r"),
        ("a\u2028b", "a\\u2028b"),
        ("\u202eevil", "\\u202eevil"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("ü × 日本", "ü × 日本"),
    ],
)
def test_unsafe_characters_become_visible(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_huge_fields_are_capped() -> None:
    decision = journal_at(None).append(
        "plan",
        "s" * 10_000_000,
        reason="\x00" * 10_000,
        seen={f"signal {i}": i for i in range(10_000)},
        after={"deep": {"er": {"and": {"deeper": {"still": 1}}}}, "long": list(range(10_000))},
    )
    assert len(decision.subject) == len(decision.reason) == 2_000
    assert decision.subject.endswith("s…")
    assert len(decision.seen) == 100
    assert len(decision.after["long"]) == 100
    assert len(encode(decision)) <= MAX_RECORD_BYTES


def test_a_record_that_is_too_large_altogether_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with journal_at(path) as journal:
        decision = journal.append(
            "plan", "x", reason="kept", after={f"k{i}": "v" * 2_000 for i in range(100)}
        )
    assert decision.reason == "kept"
    assert "left out: the record had 20" in decision.after["note"]
    assert path.stat().st_size <= MAX_RECORD_BYTES
    assert list(read(path)) == [decision]


# -- damage -------------------------------------------------------------------------------------


def test_a_tail_torn_at_any_byte_is_cut_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = filled(path, 3)
    content = path.read_bytes()
    starts = [0] + [i + 1 for i, byte in enumerate(content) if byte == 0x0A]
    for size in range(len(content) + 1):
        torn_file = path.with_name(path.name + ".torn")
        torn_file.unlink(missing_ok=True)
        path.write_bytes(content[:size])
        complete = sum(start <= size for start in starts) - 1
        torn = content[starts[complete] : size]
        with journal_at(path) as journal:
            assert tick(journal).seq == complete + 1 + bool(torn)
        found = list(read(path))
        assert found[:complete] == whole[:complete]
        assert verify(path).intact
        assert (torn_file.read_bytes() if torn else b"") == torn
        if torn:
            assert found[complete].subject == "journal"
            assert found[complete].reason.startswith(f"{len(torn)} bytes behind the last whole")
        else:
            assert not torn_file.exists()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_never_passes_for_a_record(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "journal.jsonl"
    if not path.exists():
        filled(path, 3)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(content)
    whole = list(read(path))
    reported: list[Damage] = []
    found = list(read(damaged, on_damage=reported.append))
    assert all(decision in whole for decision in found)
    assert len(found) < len(whole)
    assert not verify(damaged).intact


def test_damage_in_the_middle_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    path.write_bytes(path.read_bytes().replace(b"reason 1", b"reason 7"))
    with pytest.raises(JournalError, match=r"journal\.jsonl:2: the CRC does not match"):
        list(read(path))
    reported: list[Damage] = []
    assert [d.seq for d in read(path, on_damage=reported.append)] == [1, 3]
    assert [d.line for d in reported] == [2]
    verdict = verify(path)
    assert (verdict.records, verdict.first_seq, verdict.last_seq) == (2, 1, 3)
    assert [d.reason for d in verdict.damage] == ["the CRC does not match", "number 3 follows 1"]


def test_damage_in_the_middle_is_left_alone_when_the_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    content = path.read_bytes().replace(b"reason 1", b"reason 7")
    path.write_bytes(content)
    with journal_at(path) as journal:
        assert tick(journal).seq == 4
    assert path.read_bytes().startswith(content)


def test_several_bad_lines_and_zeroed_blocks_at_the_end_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 2)
    content = path.read_bytes()
    path.write_bytes(content + b"{}\nnot a record\n" + b"\0" * 200_000)
    with journal_at(path) as journal:
        assert tick(journal).seq == 4
    assert path.read_bytes().startswith(content)
    assert verify(path).records == 4
    assert (tmp_path / "journal.jsonl.torn").stat().st_size == 200_016


def test_torn_parts_of_several_stops_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    for part in (b'{"v":1,"se', b'{"v":1,"other'):
        with path.open("ab") as file:
            file.write(part)
        journal_at(path).close()
    assert (tmp_path / "journal.jsonl.torn").read_bytes() == b'{"v":1,"se{"v":1,"other'


def test_an_incomplete_last_line_is_not_read_and_reported_by_verify(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert [d.seq for d in read(path)] == [1]
    verdict = verify(path)
    assert not verdict.intact
    assert verdict.torn_bytes > 0
    assert not verdict.damage


def test_an_empty_journal_is_not_called_intact(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.touch()
    assert verify(path) == Verdict(0, 0, 0, 0, ())
    assert not verify(path).intact


def test_a_line_longer_than_any_record_is_damage_not_memory(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    last = path.read_bytes()
    path.write_bytes(b"x" * 3_000_000 + b"\n" + last)
    assert [d.seq for d in read(path, on_damage=lambda damage: None)] == [1]
    assert [d.line for d in verify(path).damage] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "schema version 2 is newer than 1"),
        ({"v": "1"}, "schema version must be 1, got 1"),
        ({"seq": 0}, "seq has the wrong type"),
        ({"seq": True}, "seq has the wrong type"),
        ({"applied": 1}, "applied has the wrong type, int"),
        ({"seen": {"a": "b"}}, "seen holds 'b', which is no number"),
        ({"before": []}, "before has the wrong type, list"),
        ({"reason": None}, "reason has the wrong type, NoneType"),
    ],
)
def test_a_record_with_wrong_content_is_refused(change: dict[str, Any], message: str) -> None:
    row = tick(journal_at(None)).to_json() | change
    with pytest.raises(RecordError, match=message):
        Decision.from_json(row)


def test_a_record_with_a_missing_field_is_refused() -> None:
    row = tick(journal_at(None)).to_json()
    del row["reason"]
    with pytest.raises(RecordError, match="reason is missing"):
        Decision.from_json(row)


# -- the path -----------------------------------------------------------------------------------


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


# -- threads, processes, full disks -------------------------------------------------------------


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
        monkeypatch.setattr("evolve.log.file.os.write", self)

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

    monkeypatch.setattr("evolve.log.file.os.write", full)
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
        patch.setattr("evolve.log.file.os.fsync", broken)
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
        patch.setattr("evolve.log.file.os.replace", broken)
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
        patch.setattr("evolve.log.file.os.ftruncate", no_cut)
        with pytest.raises(OSError, match="No space left"):
            file.write(lines[1])
    assert path.stat().st_size == len(lines[0]) + 7
    disk.free = 1 << 20
    file.write(lines[1])
    file.close()
    assert path.read_bytes() == b"".join(lines)


# -- documentation ------------------------------------------------------------------------------


def test_the_documented_fields_are_those_of_a_decision() -> None:
    """To renew it: `python -m evolve.log.document`."""
    text = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
    assert field_table() in text
