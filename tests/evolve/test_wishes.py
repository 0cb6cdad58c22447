"""What the user forbids or demands of batches."""

from __future__ import annotations

import pytest
import torch

import evolve
from tests.evolve.conftest import encoder_call


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
