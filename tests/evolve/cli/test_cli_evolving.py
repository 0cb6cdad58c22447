"""`evolve search` and `evolve distill` on a model of two layers, by the real commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evolve.cli import main
from evolve.cli.evolving import distill as command
from evolve.evolution import generation
from supernet.capture.subject import capture
from supernet.elastic.extracted import Subnet
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.elastic.trained import digest_of, read_weights
from tests.evolve.tiered import EXAMPLES, two_layers

ROOT = Path(__file__).parents[3]
CODE = """
import sys
sys.path.insert(0, {root!r})
import torch
from tests.evolve.tiered import two_layers

class Holder:
    count = 3

def few():
    return two_layers(), [(torch.zeros(1, 8),)] * 5

def empty():
    return two_layers(), []

def lists():
    return two_layers(), [[torch.zeros(1, 8)]]

def no_model():
    return 3, [(torch.zeros(1, 8),)]

def nothing():
    return None

def broken():
    raise RuntimeError("no weights here")

def other_kinds():
    return two_layers(), [(torch.zeros(1, 8),)] + [(torch.zeros(1, 8).double(),)] * 30

def flat():
    model = torch.nn.Linear(8, 4)
    return model, [(torch.randn(1, 8),) for _ in range(40)]

def make():
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    return two_layers(), [(row,) for row in rows.split(1)]
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "two_layered.py"
    file.write_text(CODE.format(root=str(ROOT)))
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("EVOLVE_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def ran(*argv: object) -> tuple[int, str, str]:
        status = main([str(part) for part in argv])
        return status, *capsys.readouterr()

    return ran


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("", 2, "must be package.module:NAME or path/to/file.py:NAME"),
        (":nobody", 2, "has no 'nobody'; callable there: two_layers, Holder, few"),
        (":Holder.count", 2, "must be callable without arguments, got int"),
        (":nothing", 1, "must return (model, inputs)"),
        (":no_model", 1, "got int for the model"),
        (":empty", 1, "got no inputs; the first is the example"),
        (":lists", 1, "got list for inputs[0]"),
        (":broken", 1, "raised RuntimeError: no weights here"),
        (":few", 1, "inputs must hold at least 20 different rows"),
        (":other_kinds", 1, "30 of 31 inputs do not fit the example"),
        (":flat", 1, "the model must have something that can be left out, got nothing"),
    ],
)
def test_what_is_wrong_with_the_model_is_said(
    path: Path, run: Run, name: str, status: int, words: str
) -> None:
    got, _, err = run("search", f"{path}{name}")
    assert got == status
    plain = " ".join(err.replace("│", " ").split())
    assert words in plain, plain
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("model", "words"),
    [("no/such/file.py:make", "there is no file no/such/file.py"),
     ("no_such.module:make", "there is no module no_such.module")],
)  # fmt: skip
def test_what_is_not_there_is_said(run: Run, model: str, words: str) -> None:
    status, _, err = run("search", model)
    assert status == 2
    assert words in " ".join(err.replace("│", " ").split())


def test_search_tells_what_can_be_left_out(path: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "front.svg"
    status, out, err = run("search", f"{path}:make", "--measured", 20, "--plot", picture)
    assert status == 0, err
    assert "2 layers can be left out, 2 widths cut" in out
    assert "blocks.1 left out" in out
    assert "none trained" in out
    assert picture.read_text().lstrip().startswith("<?xml")


def test_search_as_json(path: Path, run: Run) -> None:
    status, out, _ = run("search", f"{path}:make", "--measured", 20, "--json", "--speedup", 1.2)
    assert status == 0
    told = json.loads(out)
    assert told["genes"][0]["name"] == "blocks.0.skipped"
    assert {point["role"] for point in told["front"]} == {"original", "front", "uniform", "tier"}
    assert 20 <= told["measured"] <= 24


def test_distill_stops_goes_on_and_its_tiers_can_be_read_back(
    path: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked = ("distill", f"{path}:make", "--out", out, "--minutes", 0.1, "--speedup", 1.2)
    improve = generation.improve

    def interrupted(net: Supernet, *args: object, **options: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return improve(net, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(generation, "improve", interrupted)
        status, _, err = run(*asked)
    assert status == 130
    assert "the same command goes on" in err
    kept = sorted(str(p.relative_to(out)) for p in (out / "unfinished").glob("*/*/*"))
    assert any(name.endswith("/ordered") for name in kept)
    assert not (out / "report.json").exists()

    other = ("distill", f"{path}:few", *asked[2:])
    status, _, err = run(*other)
    assert status == 1
    assert "at least 20 different rows" in err
    assert "of other weights" not in err  # the same model: its inputs are too few

    events = tmp_path / "events"
    status, told, err = run(*asked, "--tensorboard", events)
    assert status == 0, err
    assert list(events.glob("events*"))
    assert "generation 1" in told
    assert not (out / "unfinished").exists()
    report = json.loads((out / "report.json").read_text())
    (name,) = report["tiers"]
    tier = json.loads((out / f"{name}.json").read_text())
    assert tier["quality_lower"] >= 0.97
    spec, weights = SubnetSpec.from_json(tier["spec"]), out / tier["weights"]
    net = Supernet.of(capture(two_layers(), EXAMPLES))
    adopted = net.module(spec, read_weights(weights, digest_of(weights), net.original))
    alone = Subnet.load(out / tier["module"])
    x = torch.randn(3, 8)
    assert torch.allclose(alone.module(x)[0], adopted(x)[0], atol=1e-6)


def test_the_time_left_is_that_of_the_parts_to_come() -> None:
    whole = command._left_s("times of a few sub-networks", 100.0)
    local = command._left_s("every layer by itself", 100.0)
    assert whole > local > command._left_s("every layer by itself", 100.0, inside=True)
    assert command._left_s("selection", 100.0) == 0.0
    assert command._in_words(250.0) == "4 min left"


def test_the_commands_start_light() -> None:
    code = "import sys, evolve.cli.app; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
