"""`evolve simulate`: one trace on the reference encoder, a suite, its table, JSON and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolve.cli import main
from policies.baselines import RulePolicy
from sims.reference import reference_service
from sims.simulate import simulate
from sims.traces import poisson

SHORT = ["--seconds", "2", "--rate", "100"]
SMALL = ["--suite", "six-tiers", "--seconds", "1", "--regimes", "poisson", "--loads", "0.5,1.2"]


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("EVOLVE_TRACEBACK", "EVOLVE_DATA"):
        monkeypatch.delenv(name, raising=False)


# -- one trace ----------------------------------------------------------------------------------


def test_simulate_gives_what_the_simulator_gives(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--trace", "poisson", "--policies", "rule, threshold,rule", "--seeds", "2"]
    status, out, _ = run(capsys, "simulate", *argv, *SHORT, "--json")
    assert status == 0
    told = json.loads(out)
    assert list(told["policies"]) == ["rule", "threshold"]
    assert told["seeds"] == [0, 1]
    expected = [
        simulate(reference_service(), poisson(100.0, 2.0, seed=seed), RulePolicy())
        for seed in (0, 1)
    ]
    rule = told["policies"]["rule"]
    assert rule["mean"]["p99_ms"] == pytest.approx(np.mean([one.p99_ms for one in expected]))
    assert [one["offered"] for one in rule["runs"]] == [one.offered for one in expected]


def test_simulate_prints_a_table_with_the_static_mark(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = run(
        capsys, "simulate", "--policies", "rule,static", "--seeds", "1", "--trace", "bursty", *SHORT
    )
    assert status == 0
    assert "│ rule " in out
    assert "│ static " in out
    assert "swept on each of these very traces afterwards" in " ".join(out.split())


def test_simulate_replays_a_recorded_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = tmp_path / "trace.csv"
    rows = [f"{i / 50},{5000 if i == 3 else 20}" for i in range(200)]
    csv.write_text("timestamp,length\n" + "\n".join(rows))
    argv = ["simulate", "--trace", csv, "--seconds", "2", "--policies", "rule", "--json"]
    told = json.loads(run(capsys, *argv, "--seeds", "1")[1])
    assert told["trace"] == "trace"
    assert told["requests"] == [100]
    told = json.loads(run(capsys, *argv, "--seeds", "1", "--rate", "100")[1])
    assert told["requests"][0] in range(195, 201)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--policies", "nope"], "policy must be rule, static, threshold or an exported folder"),
        (["--policies", ","], "name at least one policy"),
        (["--trace", "nope"], "trace must be poisson, bursty, surge or a CSV file, got 'nope'"),
        (["--rate", "0"], "--rate"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_simulate_refuses_what_it_cannot_run(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "simulate", *argv)
    assert status == 2
    assert message in err


def test_a_folder_that_is_no_policy_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "simulate", "--policies", tmp_path, *SHORT)
    assert status == 1
    assert err.startswith("evolve: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--regimes", "poisson"], ["--out", "x"], ["--plot"]])
def test_what_is_of_the_suite_needs_it(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "simulate", *argv)
    assert status == 2
    assert f"{argv[0]} does not go with a single trace; add --suite" in " ".join(err.split())


# -- a suite ------------------------------------------------------------------------------------


def test_a_suite_tells_everything_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "--policies", "bentoml,bold", "--seeds", "2", "--training-seeds", "1", "--json"]
    status, out, _ = run(capsys, "simulate", *argv)
    assert status == 0
    told = json.loads(out)
    assert list(told["policies"]) == ["rule", "bentoml", "bentoml, tuned", "bold"]
    assert told["seeds"] == [0, 1]
    assert told["training_seeds"] == [100_000]
    assert [cell["load"] for cell in told["cells"]] == [0.5, 1.2]
    assert told["left_out"] == []
    rule, tuned = told["policies"]["rule"], told["policies"]["bentoml, tuned"]
    by_cell = np.array(tuned["utility_by_cell_and_seed"]) - rule["utility_by_cell_and_seed"]
    assert tuned["difference_points"]["mean"] == pytest.approx(100 * by_cell.mean())
    assert tuned["worst_cell"]["difference_points"] == pytest.approx(
        100 * by_cell.mean(axis=1).min()
    )
    regret = told["bound"]["mean"] - np.mean(rule["utility_by_cell_and_seed"])
    assert rule["regret_points"]["mean"] == pytest.approx(100 * regret)


def test_a_suite_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--suite", "six-tiers", "--seconds", "1", "--loads", "0.9", "--policies", "clockwork"]
    status, out, _ = run(capsys, "simulate", *argv, "--seeds", "2", "--training-seeds", "1")
    assert status == 0
    assert "8 regimes x 1 load, 2 seeds of 1 s, 4 workers, 36 ms" in out
    assert "│ clockwork, tuned " in out
    assert "│ clairvoyant bound " in out
    text = " ".join(out.split())
    assert "tuned on 1 training seed, other than those of the table" in text
    assert "Left out: azure-shape, azure-replay, twitter-shape; they need recorded traces" in text


def test_one_seed_has_no_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "--policies", "bold", "--seeds", "1"]
    status, out, _ = run(capsys, "simulate", *argv)
    assert status == 0
    assert "One seed: no intervals." in out
    assert "±" not in out
    told = json.loads(run(capsys, "simulate", *argv, "--json")[1])
    assert told["policies"]["bold"]["utility"]["low"] is None


def test_results_and_pictures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "a" / "b"
    argv = [*SMALL, "--policies", "threshold,slackfit:buckets=4,static", "--seeds", "2"]
    status, told, _ = run(
        capsys, "simulate", *argv, "--training-seeds", "0", "--out", out, "--plot"
    )
    assert status == 0
    names = ["regret.png", "results.json", "timeline-poisson.png", "utility.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert all(f"written: {out / name}" in told for name in names)
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    hindsight = results["policies"]["static, hindsight"]
    assert np.shape(hindsight["settings"]) == (2, 2)


def test_without_matplotlib_nothing_is_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    status, _, err = run(capsys, "simulate", *SMALL, "--out", out, "--plot")
    assert status == 1
    assert "pip install 'evolve-runtime[plot]'" in err
    assert not out.exists()


def test_recorded_regimes_are_found_in_the_data_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    from sims.evaluation import suite as room

    whole = room.suite

    def noted(service: Any, *, seconds: float, data: Path | None) -> Any:
        asked.append(data)
        return whole(service, seconds=seconds)

    monkeypatch.setattr(room, "suite", noted)
    monkeypatch.setenv("EVOLVE_DATA", str(tmp_path))
    assert run(capsys, "simulate", *SMALL, "--policies", "rule:delta=1", "--seeds", "1")[0] == 0
    argv = ["simulate", "--suite", "six-tiers", "--seconds", "1", "--loads", "0.5", "--seeds", "1"]
    assert run(capsys, *argv, "--policies", "bold")[0] == 0
    assert asked == [None, tmp_path], "files are read only for a regime that needs them"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "nope"], "suite must be six-tiers, got 'nope'"),
        ([*SMALL, "--trace", "surge"], "--trace does not go with --suite"),
        ([*SMALL, "--plot"], "--plot needs a folder to draw into; add --out"),
        ([*SMALL, "--out", __file__], "must be a folder, got the file"),
        ([*SMALL, "--policies", "nope"], "got 'nope'"),
        ([*SMALL, "--policies", "slackfit:buckets=0"], "buckets must be a whole number of"),
        ([*SMALL, "--loads", "1,-2"], "loads must be numbers greater than 0"),
        ([*SMALL, "--loads", "much"], "loads must be numbers greater than 0"),
        ([*SMALL, "--regimes", "calm"], "regime must be poisson, gamma-8"),
        ([*SMALL, "--regimes", "azure-shape"], "azure-shape must have recorded traces"),
    ],
)
def test_a_suite_refuses_what_it_cannot_run(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "simulate", *argv)
    assert status == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_a_folder_that_is_no_policy_stops_a_suite_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "simulate", *SMALL, "--policies", tmp_path)
    assert status == 1
    assert err.startswith("evolve: ")
    assert err.count("\n") == 1
