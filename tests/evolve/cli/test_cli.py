"""The command line: exit statuses, errors in one line, light start, each subcommand's answer."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolve.cli import main
from evolve.errors import EvolveError
from policies.observation import observation_names
from policies.presets import PRESETS
from policies.tactical import TacticalPolicy
from profiler.shapes import Shape
from supernet.plans import Plan, PlanSpec, PlanState

ROOT = Path(__file__).parents[3]
COMMANDS = ("demo", "profile", "plans", "search", "distill", "simulate", "train", "log")


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("EVOLVE_TRACEBACK", raising=False)


# -- the shell ----------------------------------------------------------------------------------


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(f" {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, name, "-h")
    assert status == 0
    assert "Usage: evolve" in out


@pytest.mark.parametrize(
    "argv", [[], ["nope"], ["log"], ["log", "x", "--nope"], ["demo", "--seconds", "1"]]
)
def test_wrong_usage_is_status_2_without_a_traceback(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *argv)
    assert status == 2
    assert "Usage: evolve" in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (EvolveError("it is so"), 1, "evolve: it is so\n"),
        (ImportError("pip install x"), 1, "evolve: pip install x\n"),
        (ValueError("two\nlines \x1b[31m"), 1, "evolve: two\\nlines \\x1b[31m\n"),
        (ValueError(), 1, "evolve: no reason given\n"),
        (KeyError("k"), 1, "evolve: KeyError: 'k' (EVOLVE_TRACEBACK=1 shows where)\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(path: Path) -> None:
        raise error

    monkeypatch.setattr("evolve.cli._drop_stdout", lambda: None)
    monkeypatch.setattr("evolve.cli.log._verify", fails)
    assert main(["log", "x", "--verify"]) == status
    assert capsys.readouterr().err == line


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        raise KeyError("k")

    monkeypatch.setenv("EVOLVE_TRACEBACK", "1")
    monkeypatch.setattr("evolve.cli.log._verify", fails)
    with pytest.raises(KeyError):
        main(["log", "x", "--verify"])


def test_help_and_the_log_load_no_framework(tmp_path: Path) -> None:
    heavy = ["torch", "numba", "numpy", "onnxruntime", "openvino", "matplotlib", "gymnasium"]
    code = (
        "import sys; from evolve.cli import main; "
        "from evolve.journal.journal import Journal; "
        f"j = Journal({str(tmp_path / 'j')!r}, device='d'); j.append('plan', 'x', reason='r'); "
        f"j.close(); assert main(['log', {str(tmp_path / 'j')!r}]) == 0; "
        "assert main(['--help']) == 0; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_evolve() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evolve", "nope"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "No such command 'nope'" in done.stderr


def test_a_reader_that_leaves_early_is_no_failure(tmp_path: Path) -> None:
    from evolve.journal.journal import Journal

    path = tmp_path / "journal.jsonl"
    with Journal(path, device="d") as journal:
        for _ in range(3_000):
            journal.append("plan", "x" * 50, reason="r" * 50)
    command = f"'{sys.executable}' -m evolve log '{path}' -n 0 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == ["0"]


# -- demo ---------------------------------------------------------------------------------------


def test_demo_passes_its_options_and_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main_room = importlib.import_module("evolve.demo.main")
    asked: dict[str, Any] = {}

    def fake(**options: Any) -> int:
        asked.update(options)
        return 1

    monkeypatch.setattr(main_room, "main", fake)
    argv = ["demo", "--json", "f.json", "--out", "o", "--seconds", "4", "--seed", "3"]
    assert run(capsys, *argv)[0] == 1
    assert asked == {"json_path": Path("f.json"), "out_dir": Path("o"), "seconds": 4.0, "seed": 3}


# -- profile ------------------------------------------------------------------------------------


def test_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "profile", "--no-measure", "--cache", tmp_path, "--json")
    assert status == 0
    told = json.loads(out)
    assert told["devices"][0]["kind"] == "cpu"
    assert told["units"]
    status, out, _ = run(capsys, "profile", "--no-measure", "--cache", tmp_path)
    assert status == 0
    assert told["devices"][0]["key"] in out
    assert (tmp_path / "fingerprints.json").is_file()


def test_profile_refuses_to_measure_and_not(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "profile", "--refresh", "--no-measure")
    assert status == 2
    assert "--refresh and --no-measure exclude each other" in err


# -- plans --------------------------------------------------------------------------------------


def a_plan(backend: str, state: PlanState, **more: Any) -> Plan:
    spec = PlanSpec("f00d" * 16, backend, "fp32", 1, "w", "2.13.0", "1.31", "x86_64")
    return Plan(spec, state, **more)


def test_plans_of_an_empty_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none"
    status, out, _ = run(capsys, "plans", "--cache", missing)
    assert status == 0
    assert out.startswith(f"no plans in {missing}")
    assert json.loads(run(capsys, "plans", "--cache", missing, "--json")[1])["plans"] == []
    assert not missing.exists(), "looking must not create anything"


def test_plans_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (
        a_plan("openvino", PlanState.QUARANTINED, error=float("inf"), reason="bad \x1b[31m"),
        a_plan(
            "onnxruntime",
            PlanState.VERIFIED,
            error=1e-6,
            memory_mib=91.0,
            costs_ms={Shape(16, 280): 140.0, Shape(1, 4): 2.5, Shape(4, 4): 6.0},
            reason="within the limit",
        ),
        a_plan("aoti", PlanState.QUARANTINED, reason="it crashed with SIGSEGV"),
    )
    asked: list[Any] = []

    def known(store: object, limits: object) -> tuple[Plan, ...]:
        asked.append(limits)
        return found

    monkeypatch.setattr("supernet.building.build.known_plans", known)
    (tmp_path / "reports").mkdir()
    argv = ["plans", "--cache", tmp_path, "--max-error", "0.01", "--metric", "cosine"]
    status, out, _ = run(capsys, *argv)
    assert status == 0
    assert (asked[0].max_error, asked[0].metric) == (0.01, "cosine")
    assert all(plan.key in out for plan in found)
    assert "1 × 4: 2.5" in out
    assert "16 × 280: 140" in out
    assert "SIGSEGV" in out
    assert "\x1b" not in out
    told = json.loads(run(capsys, *argv, "--json")[1])["plans"]
    assert [row["error"] for row in told] == [None, 1e-6, None]
    assert told[1]["costs_ms"] == [[1, 4, 2.5], [4, 4, 6.0], [16, 280, 140.0]]


def test_plans_know_their_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "plans", "--metric", "l3")
    assert status == 2
    assert "must be one of relative_l2, cosine, top1, got 'l3'" in err


# -- train --------------------------------------------------------------------------------------

SHORT = ["--seconds", "2", "--rate", "100"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Training replaced by a look at what was asked for; the policy is an untrained one."""
    pytest.importorskip("stable_baselines3")
    from policies import tactical
    from policies import train as room

    asked: list[Any] = []
    names = tactical.observation_names()
    width, presets = len(names), len(PRESETS)
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    layer = (np.zeros((presets, width), np.float32), np.zeros(presets, np.float32))
    network = tactical.Network(zeros, ones, 10.0, -100 * ones, 100 * ones, (layer,))

    def fake(envs: Any, config: Any, *, validate: Any, progress: Any, tensorboard: Any) -> Any:
        policy = tactical.TacticalPolicy(network, card={"config": {"seed": config.seed}})
        asked.append((envs, config, tensorboard, validate(policy)))
        progress(config.steps, config.steps, 0.01)
        return room.Trained(policy, (0.01,), config=config)

    monkeypatch.setattr(room, "train", fake)
    monkeypatch.setattr("evolve.cli.train.VALIDATION_EPISODES", 3)
    monkeypatch.setattr("evolve.cli.train.CARD_EPISODES", 4)
    return asked


def test_train_exports_a_policy_that_simulate_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: list[Any]
) -> None:
    out = tmp_path / "policy"
    settings = tmp_path / "train.yaml"
    settings.write_text("steps: 10\nenvironments: 3\nhidden: [8, 8]\ngamma: 0\n")
    argv = ["train", "--out", out, "--config", settings, "--steps", "20", "--seed", "5"]
    status, told, _ = run(capsys, *argv, "--tensorboard", tmp_path / "events")
    assert status == 0
    assert f"exported to {out}" in told
    envs, asked, tensorboard, validated = trained[0]
    assert (asked.steps, asked.seed, asked.hidden, asked.gamma) == (20, 5, (8, 8), 0.0)
    assert (envs.num_envs, asked.environments) == (3, 3)
    assert envs.reset().shape == (3, len(observation_names()))
    assert tensorboard == tmp_path / "events"
    assert 0.3 < validated <= 1.0  # utility: this untrained policy is the rule
    card = TacticalPolicy.load(out).card
    assert card["results"]["points over the rule"] == 0.0
    assert card["results"]["episodes"] == 4
    assert card["versions"].keys() >= {"torch", "stable-baselines3", "evolve-runtime"}
    told_card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "not shown to be better than the rule" in told_card
    argv = ["simulate", "--policies", out, "--seeds", "1", "--trace", "poisson", "--json"]
    assert list(json.loads(run(capsys, *argv, *SHORT)[1])["policies"]) == [str(out)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 3\n", "train.yaml:1: setting must be a known one, got 'step'; did you mean steps?"),
        ("seed: 1\nsteps: many\n", "train.yaml:2: steps must be a whole number, got 'many'"),
        ("gamma: true\n", "train.yaml:1: gamma must be a number, got True"),
        ("steps: 0\n", "train.yaml: steps must be at least 1, got 0"),
        ("- 1\n", "train.yaml:1: the file must be settings (key: value), got a list"),
    ],
)
def test_wrong_training_settings_are_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trained: list[Any],
    text: str,
    message: str,
) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text(text)
    status, _, err = run(capsys, "train", "--out", tmp_path / "policy", "--config", settings)
    assert status == 1
    assert message in err
    assert not trained


def test_train_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for argv in (["--out", "file"], ["--out", "new", "--tensorboard", "file"]):
        places = [part if part.startswith("--") else tmp_path / part for part in argv]
        status, _, err = run(capsys, "train", *places)
        assert status == 2
        assert argv[-2] in err
        assert "must be a folder, got the file" in err


def test_train_without_stable_baselines_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = {name for name in sys.modules if name.startswith("stable_baselines3")}
    for name in loaded | {"stable_baselines3"}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "sims.gym.vec_env", raising=False)
    status, _, err = run(capsys, "train", "--out", tmp_path / "policy")
    assert status == 1
    assert err == "evolve: training needs stable-baselines3: install evolve-runtime[train]\n"
    assert not (tmp_path / "policy").exists()


def test_a_training_from_the_command_line_leaves_a_policy_and_its_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.setattr("evolve.cli.train.VALIDATION_EPISODES", 2)
    monkeypatch.setattr("evolve.cli.train.CARD_EPISODES", 4)
    settings = tmp_path / "train.yaml"
    settings.write_text("steps: 64\nenvironments: 4\nrollout_steps: 8\nminibatch: 32\nepochs: 1\n")
    out, events = tmp_path / "policy", tmp_path / "events"
    argv = ["--out", out, "--config", settings, "--tensorboard", events]
    status, told, err = run(capsys, "train", *argv)
    assert status == 0, err
    assert f"exported to {out}: " in told
    assert "on 4 unseen episodes" in told
    assert list(events.rglob("events.out.tfevents.*"))
    policy = TacticalPolicy.load(out)
    assert policy.card["environment"] == "evolve/Load-v0"
    assert len(policy.card["rewards"]) == 2
