"""`python -m benchmarks --verdict` names every promised figure that falls short."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks import harness, verdict
from benchmarks.harness import Figure


def write(folder: Path, name: str, record: Any) -> None:
    (folder / name).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (Figure(0, 0), True),
        (Figure(1, 0), False),
        (Figure(4.0, 4.0, at_most=False), True),
        (Figure(3.9, 4.0, at_most=False), False),
        (Figure(math.nan, 1.0), False),
        (Figure(math.nan, 1.0, at_most=False), False),
    ],
)
def test_figure_holds(figure: Figure, holds: bool) -> None:
    assert figure.holds is holds


def test_published_figures_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    harness.publish(
        "sample", "How many?", {"lost": Figure(2, 0), "speed": Figure(5.0, 4.0, False), "n": 7}
    )
    found = verdict.read(tmp_path)
    assert [(p.name, p.value, p.target, p.holds) for p in found.promises] == [
        ("lost", 2, 0, False),
        ("speed", 5.0, 4.0, True),
    ]
    capsys.readouterr()
    assert verdict.main(tmp_path) == 1
    told = capsys.readouterr().out
    assert "lost" in told
    assert "speed" not in told
    assert "1 of 2 promised figures hold" in told


def test_all_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a.json", {"figures": {"x": Figure(1, 2).to_json()}})
    write(tmp_path, "b.json", {"figures": {"measured": 3.0}})
    assert verdict.main(tmp_path) == 0
    told = capsys.readouterr().out
    assert "b.json: no figures" in told
    assert "1 of 1 promised figures hold" in told


def test_file_that_cannot_be_read_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"figures": ')
    assert verdict.main(tmp_path) == 1


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    write(tmp_path, "a.json", {"figures": {"x": Figure(3, 2).to_json()}})
    assert command.main(["--verdict"]) == 1
    with pytest.raises(SystemExit):
        command.main(["units", "--verdict"])
    assert "--verdict must be given without NAME" in capsys.readouterr().err
