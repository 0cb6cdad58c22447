"""The journal keeps every decision as it was, whatever is in it."""

from __future__ import annotations

import copy
import json
import math
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.journal.decision import field_table, printable
from evolve.journal.journal import read
from evolve.journal.record import MAX_RECORD_BYTES, decode, encode
from tests.evolve.journals import Clock, filled, journal_at, tick


@pytest.fixture
def clock() -> Clock:
    return Clock()


ROOT = Path(__file__).parents[3]


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


def test_the_documented_fields_are_those_of_a_decision() -> None:
    """To renew it: `python -m evolve.cli.document`."""
    text = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
    assert field_table() in text
