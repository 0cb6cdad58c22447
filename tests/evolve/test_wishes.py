"""What the user forbids or demands of batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import evolve
from evolve.cli import main
from tests.evolve.conftest import WAITED_FOR, encoder_call


def test_what_is_forbidden_is_off_and_answers_stay(
    encoder: torch.nn.Module, config: evolve.Config
) -> None:
    calls = [encoder_call(5), encoder_call(9)]
    with evolve.wrap(
        encoder, calls, config=config, batchable=False, paddable=False, lengths=[5, 9]
    ) as runtime:
        captured = runtime.status()["capture"]
        assert captured["batching"] == {"status": "off", "why": "forbidden"}
        assert captured["padding"]["status"] == "off"
        for call in (*calls, encoder_call(7)):
            want = encoder(**call)
            got = runtime.submit(**call).result(timeout=30)
            assert all(torch.equal(got[name], want[name]) for name in want)
        assert runtime.status()["counts"]["outside"] == 1  # the length that is not among them


def test_a_demand_that_the_model_refutes_is_refused(config: evolve.Config) -> None:
    class Centred(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

    with pytest.raises(ValueError, match="batchable must be False or None for this model"):
        evolve.wrap(Centred(), (torch.randn(3, 4),), config=config, batchable=True)


def test_a_proof_is_told(encoder: torch.nn.Module, config: evolve.Config) -> None:
    with evolve.wrap(encoder, [encoder_call(5), encoder_call(9)], config=config) as runtime:
        captured = runtime.status()["capture"]
    assert captured == {
        "program": "exported",
        "batching": {"status": "proven", "why": ""},
        "padding": {"status": "proven", "why": ""},
    }


def test_the_plans_command_tells_what_is_proven(
    encoder: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = evolve.Config(capture=WAITED_FOR).replace(
        plans={"cache_dir": tmp_path, "backends": ("eager",)}
    )
    calls = [encoder_call(5), encoder_call(9)]
    with evolve.wrap(encoder, calls, config=config, paddable=False) as runtime:
        assert runtime.wait_for_plans(120)
        graph = runtime.parts.serving.capture.graph_hash
    assert main(["plans", "--cache", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["graphs"][graph]
    assert told["batching"] == {"status": "proven", "why": ""}
    assert told["padding"] == {"status": "off", "why": "forbidden"}
    assert main(["plans", "--cache", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{graph[:8]} batching proven" in out
    assert f"{graph[:8]} padding off: forbidden" in out
