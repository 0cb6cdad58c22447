"""The journal tells damage from truth, and cuts off no more than what was never whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.journal.decision import Decision, RecordError
from evolve.journal.journal import Damage, JournalError, Verdict, read, verify
from tests.evolve.journals import filled, journal_at, tick


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
