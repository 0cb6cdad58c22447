"""`evolve log`: query, follow, explain and plot."""

from __future__ import annotations

import json
import math
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.cli import main
from evolve.journal.decision import Decision
from evolve.journal.explain import changes, explain, follower, headline
from evolve.journal.follow import Follower
from evolve.journal.journal import Journal, JournalError, read
from evolve.journal.plot import PlotError, TickSeries, in_force, plot
from evolve.journal.query import Filter, matching
from evolve.journal.reader import _lines_backwards

DEFAULT: dict[str, Any] = {"name": "default", "max_rows": 16, "plan": -1, "spread": 1.5}
SURGE: dict[str, Any] = {"name": "surge", "max_rows": 8, "plan": -1, "spread": math.inf}
CALM = {
    "slo_ms": 50.0, "arrival_per_s": 80.0, "burstiness": 1.1, "queue": 0, "head_slack_ms": 50.0,
    "busy_share": 0.4, "served_per_s": 80.0, "met_ratio": 1.0, "refused_ratio": 0.0,
    "p50_ms": 9.0, "p99_ms": 21.0, "cost_ratio_mean": 1.02, "cost_ratio_max": 1.4,
    "padded_ratio": 0.04, "ended": 80, "batches": 40, "plan:onnx-fp32": 0.75, "plan:original": 0.25,
}  # fmt: skip
BUSY = CALM | {
    "arrival_per_s": 500.0, "burstiness": 4.0, "queue": 40, "head_slack_ms": -3.0,
    "met_ratio": 0.71, "refused_ratio": 0.125, "p99_ms": 61.0, "ended": 480,
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Seven decisions: start, plan, calm tick, switch, vetoed switch, worker, calm again."""
    path = tmp_path / "journal.jsonl"
    now = [0.0]
    options: dict[str, Any] = {"clock": lambda: now[0], "wall": lambda: 1.7e9 + now[0]}
    with Journal(path, device="cpu-1a2b", **options) as journal:

        def tick(seen: dict[str, float], before: Any, after: Any, why: str, **more: Any) -> None:
            now[0] += 1.0
            journal.append(
                "tick", "dispatch", policy="threshold",
                seen=seen, before=before, after=after, reason=why, **more,
            )  # fmt: skip

        journal.append("runtime", "runtime", reason="serving the original model")
        journal.append(
            "plan", "onnx-fp32", before={"state": "verified"}, after={"state": "admitted"},
            seen={"error": 3e-7}, reason="error 3e-07 is within 0.005",
        )  # fmt: skip
        tick(CALM, DEFAULT, DEFAULT, "p99 is 42 % of the deadline")
        scores = {"default": 0.61, "surge": 0.88, "small": 0.5}
        tick(BUSY, DEFAULT, SURGE, "p99 is 122 % of the deadline", scores=scores)
        tick(BUSY, SURGE, DEFAULT, "vetoed: a NaN; proposed: calm", applied=False)
        journal.append("worker", "process-1", reason="ended with signal 9; started again")
        tick(CALM, SURGE, DEFAULT, "calm again")
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return status, out, err


# -- showing and filtering ----------------------------------------------------------------------


def test_one_line_per_decision_newest_last(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "log", path)
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 7)
    assert lines[0].split() == [
        "1",
        "22:13:20.000",
        "runtime",
        "runtime",
        "serving",
        "the",
        "original",
        "model",
    ]
    assert "state verified → admitted" in lines[1]
    assert "default → surge" in lines[3]
    assert "not applied" in lines[4]


def test_tail(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in run(capsys, "log", path, "-n", 2)[1].splitlines()] == [
        "6",
        "7",
    ]
    assert len(run(capsys, "log", path, "--tail", 0)[1].splitlines()) == 7


def test_json_is_the_record(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in run(capsys, "log", path, "--json")[1].splitlines()]
    assert [Decision.from_json(row) for row in rows] == list(read(path))


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        (["kind=plan"], [2]),
        (["kind!=tick"], [1, 2, 6]),
        (["reason~SIGNAL 9"], [6]),
        (["seen.p99_ms>50"], [4, 5]),
        (["seen.p99_ms >= 21", "seen.p99_ms<61"], [3, 7]),
        (["seen.p99_ms<=21"], [3, 7]),
        (["after.name=surge"], [4]),
        (["after.name!=surge"], [1, 2, 3, 5, 6, 7]),
        (["after.spread=inf"], [4]),
        (["applied=false"], [5]),
        (["seq=3"], [3]),
        (["seq=3.0"], [3]),
        (["scores.surge>0"], [4]),
        (["kind=tick", "applied=true", "uptime_s>1.5"], [4, 7]),
        (["seen.plan:onnx-fp32=0.75"], [3, 4, 5, 7]),
    ],
)
def test_where(path: Path, where: list[str], numbers: list[int]) -> None:
    filters = [Filter.parse(text) for text in where]
    assert [d.seq for d in matching(read(path), filters)] == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind", "filter must be FIELD=VALUE"),
        ("=x", "filter must be FIELD=VALUE"),
        ("knd=x", "did you mean kind?"),
        ("p99_ms>5", "a signal is written seen.p99_ms"),
        ("seen=5", "filter on seen must name an entry, such as seen.name"),
        ("kind.x=5", "filter field kind must stand alone, got kind.x"),
        ("seq>many", "filter seq> must compare with a number, got 'many'"),
    ],
)
def test_a_wrong_filter_is_wrong_usage(
    path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=r"filter"):
        Filter.parse(text)
    status, out, err = run(capsys, "log", path, "--where", text)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


def test_nothing_found_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "log", path, "--where", "kind=request")
    assert (status, out, err) == (0, "", "no decision matches\n")


def test_a_journal_that_is_not_there_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "log", tmp_path / "nowhere")
    assert (status, out) == (1, "")
    assert err.startswith("evolve: path must be a journal that can be read, got ")
    assert err.count("\n") == 1


def test_damage_is_told_and_the_rest_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(path.read_bytes().replace(b"signal 9", b"signal 8"))
    status, out, err = run(capsys, "log", path)
    assert status == 0
    assert len(out.splitlines()) == 6
    where = f"{path}, line 2 from the end"
    assert err == f"warning: damaged record left out: {where}: the CRC does not match\n"
    _, all_of_it, err = run(capsys, "log", path, "--tail", 0)
    assert all_of_it == out
    assert err == f"warning: damaged record left out: {path}:6: the CRC does not match\n"


def test_of_much_damage_the_first_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(path.read_bytes() + b"nonsense\n" * 500)
    _, out, err = run(capsys, "log", path)
    assert len(out.splitlines()) == 7
    assert len(err.splitlines()) == 21
    assert err.endswith("--verify lists them all\n")


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 50))
def test_lines_from_the_end_are_the_lines(lines: list[bytes], block: int) -> None:
    whole = [line.replace(b"\n", b" ") + b"\n" for line in lines]
    file = BytesIO(b"".join(whole) + b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evolve.journal.reader.BLOCK_BYTES", block)
        found = list(_lines_backwards(file, None))
    assert [line for _, line in found] == whole[::-1]
    assert [number for number, _ in found] == list(range(1, len(whole) + 1))


def test_the_end_of_a_large_journal_is_read_from_there(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 MB only the last block: not a line of what stands before is looked at."""
    records = path.read_bytes()
    with path.open("wb") as file:
        file.write(b"damaged\n" * (8 << 20))
        file.write(records)
    status, out, err = run(capsys, "log", path, "--tail", 3, "--json")
    assert (status, err) == (0, "")
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [5, 6, 7]


def test_verify(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "log", path, "--verify")
    assert (status, out) == (0, f"{path}: 7 records, 1 to 7\nintact\n")
    path.write_bytes(path.read_bytes().replace(b"signal 9", b"signal 8") + b"torn")
    status, out, _ = run(capsys, "log", path, "--verify")
    assert status == 1
    assert f"{path}:6: the CRC does not match" in out
    assert "4 bytes of an incomplete record" in out
    assert out.endswith("NOT intact\n")


def test_a_renamed_older_file_is_shown_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.with_name(path.name + ".1").write_bytes(b"".join(lines[:5]))
    path.write_bytes(b"".join(lines[5:]))
    _, out, _ = run(capsys, "log", path, "--json")
    assert [json.loads(line)["seq"] for line in out.splitlines()] == list(range(1, 8))
    assert "Decision 4," in run(capsys, "log", path, "--explain", 4)[1]


@pytest.mark.parametrize(
    "options", [["--follow", "--verify"], ["--explain", "1", "--plot", "x.png"]]
)
def test_options_that_exclude_each_other(
    path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    status, _, err = run(capsys, "log", path, *options)
    assert status == 2
    assert "exclude each other" in err


# -- following ----------------------------------------------------------------------------------


def test_follow_prints_what_comes_until_interrupted(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, device="cpu-1a2b")
    naps = iter([1, 2])

    def nap(seconds: float) -> None:
        if next(naps, None) is None:
            raise KeyboardInterrupt
        journal.append("plan", "new", reason="came later")
        journal.append("worker", "new", reason="filtered out")

    monkeypatch.setattr("evolve.cli.log.time.sleep", nap)
    status, out, err = run(capsys, "log", path, "-f", "--where", "kind=plan", "--json")
    journal.close()
    assert (status, err) == (0, "")
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [2, 8, 10]


def test_a_follower_waits_for_whole_lines_and_survives_rename_and_cut(path: Path) -> None:
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:30])
    damage: list[object] = []
    follow = Follower(path, on_damage=damage.append)
    assert [d.seq for d in follow.new()] == [1, 2]
    assert list(follow.new()) == []
    with path.open("r+b") as file:  # the torn tail is cut, then the run goes on
        file.truncate(len(lines[0] + lines[1]))
        file.seek(0, 2)
        file.write(lines[2])
    assert [d.seq for d in follow.new()] == [3]
    with path.open("ab") as file:
        file.write(lines[3])
    path.rename(path.with_name("old"))
    assert [d.seq for d in follow.new()] == [4]
    path.write_bytes(b"damaged\n" + lines[4])
    assert [d.seq for d in follow.new()] == [5]
    assert [str(one) for one in damage] == [f"{path}:1: the record has no CRC at its end"]
    follow.close()


# -- explaining ---------------------------------------------------------------------------------


def told(path: Path, seq: int) -> dict[str, str]:
    decisions = list(read(path))
    decision = decisions[seq - 1]
    text = explain(decision, follower(decision, decisions))
    first, *rest = text.splitlines()
    return {"": first} | {line[2:11].strip(): line[12:] for line in rest}


def test_a_switch_is_explained(path: Path) -> None:
    text = told(path, 4)
    assert text[""] == (
        "Decision 4, a tick about dispatch, 2023-11-14 22:13:22.000 UTC, 2.0 s into the run "
        "on cpu-1a2b."
    )
    assert text["Seen"] == (
        "500 requests/s arriving in bursts (CV² 4.0), 80/s answered; 40 waiting, the most urgent "
        "3 ms late; workers 40 % busy; of those that ended, 71 % in time and 12 % refused; "
        "p50 9 ms, p99 61 ms (122 % of the 50 ms allowed); batches took 1.02 × the predicted "
        "time, 1.40 × at worst; 4 % of the work was padding; "
        "answered by onnx-fp32 75 %, original 25 %."
    )
    assert text["Chosen"] == (
        '"surge" instead of "default" by the policy threshold: batches of up to 8 rows instead '
        "of 16; lengths in a batch up to inf × apart instead of 1.5."
    )
    assert text["Why"] == "p99 is 122 % of the deadline."
    assert text["Expected"] == '"surge" scored 0.88, "default" 0.61 (+0.27); next: "small" 0.5.'
    assert text["Applied"] == "Yes."
    assert text["Followed"].startswith("Tick 5, 1.0 s later: p99 61 ms, met in time 71 %,")


def test_a_veto_is_explained(path: Path) -> None:
    text = told(path, 5)
    assert text["Applied"] == "No: a guard stopped it, and what held before stayed in force."
    assert "p99 61 ms → 21 ms, met in time 71 % → 100 %" in text["Followed"]


def test_a_tick_that_changes_nothing_is_explained(path: Path) -> None:
    text = told(path, 3)
    assert text["Chosen"] == 'To keep "default" by the policy threshold.'
    assert text["Applied"] == "Nothing had to be switched."
    assert text["Expected"] == "The policy gave no figure for what it expected."


def test_a_plan_and_the_last_one_are_explained(path: Path) -> None:
    text = told(path, 2)
    assert text["Seen"] == "Error 3e-07."
    assert text["Chosen"] == "State admitted instead of verified."
    assert told(path, 7)["Followed"] == "No tick was recorded after it."
    assert told(path, 1)["Chosen"] == "There was nothing to choose."


def decision(**changed: Any) -> Decision:
    with Journal(None, device="d", clock=lambda: 0.0, wall=lambda: 0.0) as journal:
        kind, subject = changed.pop("kind", "tick"), changed.pop("subject", "dispatch")
        return journal.append(kind, subject, **{"reason": "r", **changed})


def test_no_data_is_not_told_as_figures() -> None:
    text = explain(decision(seen=CALM | {"ended": 0, "batches": 0, "queue": 2}))
    assert "no request ended in the last second" in text
    assert "p99" not in text
    assert "predicted" not in text
    assert "2 waiting, the most urgent with 50 ms left" in text


def test_plans_by_number_are_told_as_what_they_mean() -> None:
    fixed = explain(decision(before={"plan": -1}, after={"plan": 2}))
    assert "Plan number 2 only, instead of any allowed." in fixed
    freed = explain(decision(before={"plan": 2}, after={"plan": -1}))
    assert "Any allowed plan instead of plan number 2." in freed


def test_a_better_score_that_was_passed_over_is_told() -> None:
    text = explain(decision(before=DEFAULT, after=DEFAULT, scores={"default": 0.1, "surge": 0.9}))
    assert '"default" scored 0.1; higher: "surge" 0.9.' in text


def test_changes_name_what_came_and_went() -> None:
    assert changes({"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3, "d": True}) == [
        "b 2 → 3",
        "d yes",
        "c no longer set",
    ]
    assert headline(decision(before=DEFAULT, after=DEFAULT)) == ""


def test_explain_from_the_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "log", path, "--explain", 4)
    assert status == 0
    assert out.startswith("Decision 4, a tick about dispatch")
    status, _, err = run(capsys, "log", path, "--explain", 99)
    assert status == 1
    assert f"SEQ must be the number of a decision in {path} (1 to 7), got 99" in err


# -- plotting -----------------------------------------------------------------------------------


def test_the_picture_is_drawn(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_path = path.with_name("journal.png")
    status, out, err = run(capsys, "log", path, "--plot", out_path)
    assert (status, out, err) == (0, f"drawn: {out_path}\n", "")
    assert out_path.read_bytes().startswith(b"\x89PNG")


def test_a_journal_without_plan_shares_is_drawn_too(path: Path) -> None:
    bare = {k: v for k, v in CALM.items() if not k.startswith("plan:")}
    with Journal(None, device="d", clock=lambda: 0.0, wall=lambda: 0.0) as journal:
        ticks = [journal.append("tick", "x", seen=bare | {"ended": i}, reason="") for i in range(3)]
    assert plot(ticks, path.with_name("bare.png")).stat().st_size > 1000


def test_a_plot_needs_ticks(path: Path) -> None:
    with pytest.raises(PlotError, match="plot must have at least 2 ticks with figures, got 1"):
        plot(list(read(path))[:3], path.with_name("x.png"))


def test_a_plot_needs_a_place_it_can_write(path: Path) -> None:
    for name in ("missing/x.png", "x.unknown"):
        with pytest.raises(PlotError, match="plot file must be one that can be written, got"):
            plot(list(read(path)), path.parent / name)


def test_without_matplotlib_the_remedy_is_named(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = run(capsys, "log", path, "--plot", path.with_name("x.png"))
    assert status == 1
    assert "pip install 'evolve-runtime[plot]'" in err


def test_the_timeline_sets_runs_one_after_another_and_leaves_gaps() -> None:
    def at(uptime_s: float, wall_s: float, **more: Any) -> Decision:
        journal = Journal(None, device="d", clock=lambda: 0.0, wall=lambda: wall_s)
        row = journal.append("tick", "x", reason="", **{"seen": CALM, **more}).to_json()
        return Decision.from_json(row | {"uptime_s": uptime_s})

    timeline = TickSeries.of(
        [
            at(5.0, 100.0, after=DEFAULT),
            at(6.0, 1.0, after=DEFAULT),  # the wall clock jumps: nothing moves
            at(7.0, 102.0, before=DEFAULT, after=SURGE, applied=False),
            at(8.0, 103.0, after=SURGE),
            at(0.5, 113.0, after=SURGE, seen=CALM | {"ended": 0}),  # a restart ten seconds later
            at(1.5, 114.0, after=DEFAULT),
        ]
    )
    assert [at_s for at_s, _ in timeline.ticks] == [0.0, 1.0, 2.0, 3.0, 13.0, 14.0]
    times, p99 = timeline.series("p99_ms", needs="ended")
    assert len(times) == 7
    assert [math.isnan(v) for v in p99] == [False] * 4 + [True, True, False]
    assert timeline.spans() == [
        (0.0, 3.0, "default"),
        (3.0, 5.0, "surge"),
        (13.0, 1.0, "surge"),
        (14.0, 0.0, "default"),
    ]
    assert in_force(timeline.ticks[2][1]) == "default"


def test_reading_errors_are_of_the_familys_kind() -> None:
    from evolve.errors import EvolveError

    assert issubclass(JournalError, EvolveError)
    assert issubclass(PlotError, EvolveError)
