"""Streams: the same trace in pieces, read no further than asked, in constant memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.traces import Trace, recorded, stream
from sims.traces.files.reading import _next_multiple


def files(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(0.05, 9000)).round(3)
    table, bare, moon, counts = (folder / name for name in ("t.csv", "b.csv", "m.jsonl", "c.txt"))
    table.write_text("time,tokens\n" + "".join(f"{at},{k % 9}\n" for k, at in enumerate(times)))
    bare.write_text("time\n" + "".join(f"{at}\n" for at in times))
    stamps = (times // 3 * 3000).astype(int)
    moon.write_text(
        "".join(json.dumps({"timestamp": int(at), "input_length": 4}) + "\n" for at in stamps)
    )
    per_s = np.where(np.arange(700) % 300 < 200, rng.poisson(9, 700), 0)
    counts.write_text("".join(f"{count}\n" for count in per_s))
    return [table, bare, moon, counts]


@pytest.mark.parametrize("chunk_s", [0.3, 7.0, 60.0, 1e6])
@pytest.mark.parametrize("cut", [{}, {"start_s": 50.25, "seconds": 210.0}])
def test_the_pieces_together_are_the_whole(
    chunk_s: float, cut: dict[str, float], tmp_path: Path
) -> None:
    for path in files(tmp_path):
        whole = recorded(path, seed=4, **cut)
        pieces = list(stream(path, chunk_s=chunk_s, seed=4, **cut))
        np.testing.assert_array_equal(
            np.concatenate([piece.arrivals_s for piece in pieces]), whole.arrivals_s
        )
        np.testing.assert_array_equal(
            np.concatenate([piece.lengths for piece in pieces]), whole.lengths
        )
        assert {(piece.name, piece.seed) for piece in pieces} == {(whole.name, whole.seed)}
        for piece in pieces:
            begin = _next_multiple(piece.arrivals_s[0], chunk_s) - chunk_s
            assert piece.seconds <= begin + chunk_s


def test_lengths_from_a_pool_are_the_same_in_pieces(tmp_path: Path) -> None:
    pool = np.array([3, 5, 9], np.int32)
    for path in files(tmp_path):
        pieces = list(stream(path, chunk_s=11.0, lengths=pool))
        joined = np.concatenate([piece.lengths for piece in pieces])
        np.testing.assert_array_equal(joined, recorded(path, lengths=pool).lengths)


@given(st.floats(0.0, 1e9), st.floats(0.001, 1e7))
def test_the_next_multiple_lies_ahead_by_at_most_one(time_s: float, chunk_s: float) -> None:
    ahead = _next_multiple(time_s, chunk_s)
    assert time_s < ahead <= time_s + chunk_s * (1 + 1e-9) + 1e-6


def test_a_stream_reads_no_further_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("time\n" + "".join(f"{k / 100}\n" for k in range(20_000)) + "oops\n")
    pieces = stream(path, chunk_s=10.0)
    first = next(pieces)
    assert (len(first), first.seconds) == (1000, 9.99)
    assert next(pieces).arrivals_s[0] == 10.0
    with pytest.raises(ValueError, match=r"late\.csv:20002: the time must be a number or an ISO"):
        list(pieces)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak_bytes(count: int) -> int:
        path = tmp_path / f"{count}.csv"
        with path.open("w") as file:
            file.write("time,tokens\n")
            file.writelines(f"{k / 200},{k % 50 + 1}\n" for k in range(count))
        tracemalloc.start()
        seen = sum(len(piece) for piece in stream(path, chunk_s=5.0))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen == count
        return peak

    short, long = peak_bytes(30_000), peak_bytes(300_000)
    assert long < 1.2 * short
    assert long < 300_000 * 12 / 2  # half of what the arrivals alone would take


def test_bad_settings_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("time\n")
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"chunk_s must be finite and at least 0\.001, got"):
            stream(path, chunk_s=wrong)
    with pytest.raises(ValueError, match="seconds must be finite and greater than 0, got -1"):
        stream(path, seconds=-1)
    with pytest.raises(ValueError, match=r"none\.csv: must hold at least one arrival, got none"):
        next(stream(path))
    assert isinstance(next(stream(files(tmp_path)[0])), Trace)
