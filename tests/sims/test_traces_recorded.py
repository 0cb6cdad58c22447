"""Recorded files: each format as published, tiny ones worked by hand, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sims.traces import recorded

ONE = np.ones(1, np.int32)
DATA = Path(os.environ.get("EVOLVE_DATA", "")) / "traces"
needs_data = pytest.mark.skipif("EVOLVE_DATA" not in os.environ, reason="EVOLVE_DATA is not set")


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def requests(*timed: tuple[float, int]) -> str:
    records = [{"timestamp": at, "input_length": n, "output_length": 5} for at, n in timed]
    return "".join(json.dumps(record) + "\n" for record in records)


def counts(numbers: Sequence[int]) -> str:
    return "".join(f"{number}\n" for number in numbers)


def test_recorded_reads_azure_files_and_plain_seconds(tmp_path: Path) -> None:
    azure = write(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    )
    trace = recorded(azure)
    assert trace.arrivals_s.tolist() == pytest.approx([0.0, 4.314579])
    assert trace.lengths.tolist() == [374, 396]
    assert (trace.name, trace.seed) == ("trace", -1)
    plain = recorded(write(tmp_path, "id,time\na,5\nb,5\n\nc,7.5\n"), lengths=3 * ONE)
    assert plain.arrivals_s.tolist() == [0.0, 0.0, 2.5]
    assert plain.lengths.tolist() == [3, 3, 3]


def test_recorded_minds_zones_and_any_number_of_decimals(tmp_path: Path) -> None:
    text = "ts\n2024-05-10T02:00:00.1234567+02:00\n2024-05-10T00:00:01.5Z\n2024-05-10 00:00:02\n"
    assert recorded(write(tmp_path, text)).arrivals_s.tolist() == pytest.approx(
        [0.0, 1.376544, 1.876544]
    )


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("time", ["1700000000", "1700000000.25", "1700000002"]),
        ("timestamp", ["1700000000000", "1700000000250", "1700000002000"]),
        ("ts", ["1700000000000000", "1700000000250000.0", "1.700000002e15"]),
        ("TIMESTAMP", ["1700000000000000000", "1700000000250000000", "1700000002000000000"]),
        ("time_ms", ["0", "250", "2000"]),
        ("arrival_us", ["0", "250000", "2000000"]),
        ("ts_ns", ["0", "250000000", "2e9"]),
        ("arrival_s", ["5", "5.25", "7"]),
        ("timestamp_ms", ["1700000000000", "1700000000250", "1700000002000"]),
    ],
)
def test_numbers_count_what_their_size_or_their_column_says(
    tmp_path: Path, header: str, rows: list[str]
) -> None:
    trace = recorded(write(tmp_path, "\n".join([header, *rows, ""])))
    assert trace.arrivals_s.tolist() == pytest.approx([0.0, 0.25, 2.0], abs=1e-6)


def test_json_lines_may_count_dates(tmp_path: Path) -> None:
    for per_s in (1, 1e3, 1e6, 1e9):
        text = requests((1.7e9 * per_s, 7), ((1.7e9 + 8) * per_s, 9))
        trace = recorded(write(tmp_path, text, "dated.jsonl"), quantum_s=0.0)
        assert trace.arrivals_s.tolist() == pytest.approx([0.0, 8.0])
    days = write(tmp_path, requests((0, 7), (4e8, 9)), "long.jsonl")  # ms from the beginning
    assert recorded(days, quantum_s=0.0).arrivals_s.tolist() == pytest.approx([0.0, 4e5])


def test_a_slice_of_a_table_starts_anew_at_0(tmp_path: Path) -> None:
    path = write(tmp_path, "time,tokens\n10,1\n11,2\n12,3\n13,4\n")
    cut = recorded(path, start_s=1.0, seconds=2.0)
    assert (cut.arrivals_s.tolist(), cut.lengths.tolist()) == ([0.0, 1.0], [2, 3])


def test_mooncake_requests_are_spread_over_their_quantum(tmp_path: Path) -> None:
    text = requests((1000, 7), (1000, 8), (1000, 0), (3999, 9), (60_000, 10))
    path = write(tmp_path, text, "moon.jsonl")
    trace = recorded(path, seed=3)
    first, lone, last = trace.arrivals_s[:3], trace.arrivals_s[3], trace.arrivals_s[4]
    assert trace.lengths.tolist() == [7, 8, 1, 9, 10]
    assert ((first >= 0) & (first < 2.999)).all()
    assert np.unique(first).size == 3
    assert 2.999 <= lone < 5.999  # not spread over the idle minute after it
    assert 59.0 <= last < 62.0
    assert (trace.name, trace.seed) == ("moon", 3)
    assert recorded(path, seed=3).arrivals_s.tolist() == trace.arrivals_s.tolist()
    assert recorded(path, seed=4).arrivals_s.tolist() != trace.arrivals_s.tolist()
    exact = recorded(path, quantum_s=0.0)
    assert exact.arrivals_s.tolist() == pytest.approx([0, 0, 0, 2.999, 59])
    assert exact.seed == -1


def test_counts_become_that_many_arrivals_in_each_second(tmp_path: Path) -> None:
    path = write(tmp_path, counts([2, 0, 3, 1]), "counts.txt")
    trace = recorded(path, seed=1, lengths=6 * ONE)
    assert np.histogram(trace.arrivals_s, range(5))[0].tolist() == [2, 0, 3, 1]
    assert trace.lengths.tolist() == [6] * 6
    assert (trace.name, trace.seed) == ("counts", 1)
    packed = tmp_path / "counts.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    again = recorded(packed, seed=1)
    assert again.arrivals_s.tolist() == trace.arrivals_s.tolist()
    assert again.name == "counts"
    assert recorded(path, seed=2).arrivals_s.tolist() != trace.arrivals_s.tolist()


def test_arrivals_within_a_second_are_uniform(tmp_path: Path) -> None:
    times = recorded(write(tmp_path, counts([500] * 40), "c.txt")).arrivals_s % 1.0
    ranks = np.arange(1, times.size + 1) / times.size
    assert np.abs(ranks - np.sort(times)).max() < 1.95 / times.size**0.5  # Kolmogorov at 0.1 %


def test_long_runs_of_zeros_are_cut_out_and_short_ones_kept(tmp_path: Path) -> None:
    path = write(tmp_path, counts([0] * 5 + [1] + [0] * 4 + [1] + [0] * 5 + [1, 0]), "c.txt")
    assert np.floor(recorded(path, gap_s=5).arrivals_s).tolist() == [0, 5, 6]
    assert np.floor(recorded(path).arrivals_s).tolist() == [5, 10, 16]
    assert np.floor(recorded(path, gap_s=float("inf")).arrivals_s).tolist() == [5, 10, 16]
    # A gap over the start of a slice, and over the seam of two blocks: still one gap.
    inside = recorded(path, gap_s=5, start_s=13.0)
    assert np.floor(inside.arrivals_s).tolist() == [0]
    seam = write(tmp_path, counts([1] + [0] * 600 + [1]), "seam.txt")
    assert np.floor(recorded(seam).arrivals_s).tolist() == [0, 1]
    assert np.floor(recorded(seam, gap_s=601).arrivals_s).tolist() == [0, 601]


def test_a_slice_of_counts_holds_the_arrivals_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path, counts([k % 7 for k in range(1000)]), "c.txt")
    whole = recorded(path, seed=5)
    cut = recorded(path, seed=5, start_s=400.5, seconds=200.0)
    np.testing.assert_allclose(cut.arrivals_s, whole.window(400.5, 600.5).arrivals_s, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: the header must name a time column, one of timestamp"),
        ("a.csv", "a,b\n1,2\n", "a.csv: the header must name a time column"),
        ("a.csv", "1\n2\n", "a.csv: the header must name a time column"),
        ("a.csv", "time\n", "a.csv: must hold at least one arrival, got none"),
        (
            "a.csv",
            "time\n1\nx\n",
            "a.csv:3: the time must be a number or an ISO-8601 time, got 'x'",
        ),
        ("a.csv", "a,time\n1,2\n1\n", "a.csv:3: the time must be a number or an ISO-8601 time"),
        (
            "a.csv",
            "time\n1700000000\n1700000000001\n",
            "a.csv:3: the time must be in seconds like its column, got 17",
        ),
        (
            "a.csv",
            "time\n1700000000000\n1700000000000001\n",
            "a.csv:3: the time must be in milliseconds like its column, got 17",
        ),
        (
            "a.csv",
            "ts\n1700000000000000\n1700000000000000001\n",
            "a.csv:3: the time must be in microseconds like its column, got 1.7",
        ),
        (
            "a.csv",
            "time\n1700000000000\n1700000001\n",
            "a.csv:3: the time must be in milliseconds like its column, got 1700000001, sec",
        ),
        (
            "a.csv",
            "time\n0\n1\n1700000000\n",
            "a.csv:4: the time must be in seconds like its column, got",
        ),
        (
            "a.csv",
            "time\n1700000000\n5\n",
            "a.csv:3: the time must be in seconds like its column, got 5, ",
        ),
        ("a.csv", "arrival_s\n1700000000000\n", "a.csv:2: the time must be in seconds like its"),
        (
            "a.csv",
            "time\n2024-05-10 00:00:00\n1715299201\n",
            "a.csv:3: the time must be an ISO-8601 time as before, got '1715299201'",
        ),
        (
            "a.csv",
            "time\n1715299200\n2024-05-10 00:00:01\n",
            "a.csv:3: the time must be a number as before, got '2024-05-10 00:00:01'",
        ),
        (
            "a.jsonl",
            requests((1.7e9, 1), (1.7e12, 1)),
            "a.jsonl:2: the time must be in seconds like its column, got 17",
        ),
        (
            "a.jsonl",
            requests((0, 1), (1.7e12, 1)),
            "a.jsonl:2: the time must be in milliseconds",
        ),
        ("a.csv", "time\nnan\n", "a.csv:2: the time must be finite, got nan"),
        ("a.csv", "time\n-1\n", "a.csv:2: the time must be at least 0, got -1.0"),
        ("a.csv", "time\n2\n1\n", "a.csv:3: the time must be ascending, got 1.0 after 2.0; sort"),
        ("a.csv", "time,tokens\n1,few\n", "a.csv:2: the length must be a whole number, got 'few'"),
        ("a.csv", "time,tokens\n1,-4\n", "a.csv:2: the length must be a whole number, got '-4'"),
        ("a.csv", "time,tokens\n1,²\n", "a.csv:2: the length must be a whole number, got '²'"),
        ("a.csv", "time,tokens\n1,9999999999\n", "a.csv:2: the length must be at most 2147483647"),
        ("a.jsonl", requests((5, 1), (4, 1)), "a.jsonl:2: the time must be ascending, got 0.004"),
        ("a.jsonl", requests((-5, 1)), "a.jsonl:1: the time must be at least 0, got -0.005"),
        ("a.jsonl", requests((float("nan"), 1)), "a.jsonl:1: the time must be finite, got nan"),
        ("a.jsonl", requests((10**400, 1)), "a.jsonl:1: the time must be finite, got inf"),
        ("a.jsonl", requests((1, 1)) + "{", "a.jsonl:2: the line must be a JSON object with"),
        ("a.jsonl", requests((1, 1)) + "[]\n", "a.jsonl:2: the line must be a JSON object with"),
        ("a.jsonl", requests((1, 1)) + "\n", "a.jsonl:2: the line must be a JSON object with"),
        ("a.jsonl", '{"timestamp": 1}', "a.jsonl:1: the line must be a JSON object with"),
        ("a.jsonl", requests((True, 1)), "a.jsonl:1: the timestamp must be milliseconds, got True"),
        ("a.jsonl", requests((1, -3)), "a.jsonl:1: the length must be a whole number, got '-3'"),
        ("a.txt", "0\n0\n", "a.txt: must hold at least one arrival, got none"),
        ("a.txt", "1\n-2\n", "a.txt:2: the count must be a whole number, got '-2'"),
        ("a.txt", "-2\n", "a.txt:1: the count must be a whole number, got '-2'"),
        ("a.txt", "1\n1.5\n", "a.txt:2: the count must be a whole number, got '1.5'"),
        ("a.txt", "1\n\n2\n", "a.txt:2: the count must be a whole number, got ''"),
        ("a.txt", "99999999\n", "a.txt:1: the count must be at most 10000000, got 99999999"),
    ],
)
def test_recorded_names_the_line_that_is_wrong(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        recorded(write(tmp_path, text, name))


def test_a_cut_off_gzip_file_and_bad_settings_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(counts(list(range(5000))).encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[:-2000])
    with pytest.raises(ValueError, match=r"cut\.txt\.gz: must be a whole gzip file, got"):
        recorded(tmp_path / "cut.txt.gz")
    path = write(tmp_path, "time\n1\n")
    with pytest.raises(ValueError, match="start_s must be finite and at least 0, got -1"):
        recorded(path, start_s=-1)
    with pytest.raises(ValueError, match="seconds must be finite and greater than 0, got 0"):
        recorded(path, seconds=0)
    with pytest.raises(ValueError, match="gap_s must be greater than 0"):
        recorded(path, gap_s=float("nan"))
    with pytest.raises(ValueError, match="quantum_s must be finite and at least 0, got -3"):
        recorded(path, quantum_s=-3)
    with pytest.raises(ValueError, match=r"trace\.csv: must hold at least one arrival, got none"):
        recorded(path, start_s=5)


@needs_data
def test_the_published_azure_trace_reads() -> None:
    trace = recorded(DATA / "AzureLLMInferenceTrace_conv.csv")
    assert len(trace) == 19_366
    assert trace.seconds == pytest.approx(58 * 60, rel=0.02)
    gaps = np.diff(trace.arrivals_s)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1.2, abs=0.1)


@needs_data
def test_the_published_mooncake_trace_reads() -> None:
    trace = recorded(DATA / "mooncake_conversation_trace.jsonl")
    assert len(trace) == 12_031
    assert 3537.0 <= trace.seconds < 3540.0
    assert (trace.lengths.min(), trace.lengths.max()) == (891, 126_195)
    assert (np.diff(trace.arrivals_s) == 0).sum() < 10


@needs_data
def test_the_twitter_counts_read_without_their_gap() -> None:
    path = DATA / "twitter_2021-08_days01-14_per_second.txt.gz"
    day = recorded(path, seconds=86_400.0)
    # The day's one long gap: 1,739 s from second 84,661 on. Shorter silences stay.
    assert day.seconds == pytest.approx(86_400 - 1_739, abs=2)
    assert np.diff(day.arrivals_s).max() < 60.0
    whole_day = recorded(path, seconds=86_400.0, gap_s=float("inf"))
    assert len(whole_day) == len(day)
    hour = recorded(path, start_s=3600.0, seconds=3600.0)
    assert len(hour) == len(day.window(3600.0, 7200.0))
