"""How many real architectures may be batched and padded, how that is known, and what it costs?

`BEFORE` says what experiments alone had found of them: a proof must not lose what was right.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.harness import Figure, publish
from supernet.capture import steps
from supernet.capture.subject import Capture, capture

__all__ = ["BEFORE", "main"]

_ASKING = ("prove", "rows_meet", "padding_counts")

_BOTH = (
    "Bert", "Roberta", "XLMRoberta", "Electra", "MPNet", "Camembert", "Ernie", "MegatronBert",
    "RoFormer", "Splinter", "Data2VecText", "IBert", "Albert", "LayoutLM", "RoCBert",
    "ModernBert", "XLMRobertaXL", "RobertaPreLayerNorm", "SqueezeBert", "Xmod",
    "BertGenerationEncoder", "DistilBert", "Deberta", "DebertaV2", "RemBert", "MobileBert",
    "XLM", "Flaubert", "Esm", "BertForSequenceClassification", "BertForMaskedLM",
    "RobertaForTokenClassification", "T5EncoderModel", "UMT5EncoderModel", "GPT2LMHeadModel",
    "GPT2ForSequenceClassification", "GPTNeoForCausalLM", "MixtralForCausalLM",
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
    "GemmaForCausalLM", "PhiForCausalLM", "FalconForCausalLM", "BloomForCausalLM",
    "OPTForCausalLM", "StableLmForCausalLM", "OlmoForCausalLM", "Starcoder2ForCausalLM",
    "CohereForCausalLM", "GPTNeoXForCausalLM", "CodeGenForCausalLM", "GPTJForCausalLM",
    "GraniteForCausalLM", "XGLMForCausalLM", "BioGptForCausalLM", "PersimmonForCausalLM",
    "GPTBigCodeForCausalLM", "Gemma2ForCausalLM", "Olmo2ForCausalLM", "GlmForCausalLM",
    "NemotronForCausalLM", "MptForCausalLM",
)  # fmt: skip
_ROWS = (
    "ConvBert", "Nystromformer", "FNet", "Canine", "ViT", "DeiT", "Beit", "Dinov2", "ViTMSN",
    "CLIPVision", "Data2VecVision", "SiglipVision", "ResNet", "RegNet", "ConvNext",
    "ConvNextV2", "Swin", "Swinv2", "MobileNetV2", "MobileNetV1", "MobileViT", "Segformer",
    "PoolFormer", "Wav2Vec2", "Hubert", "WavLM", "UniSpeech",
)  # fmt: skip
BEFORE: dict[str, str] = dict.fromkeys(_BOTH, "both") | dict.fromkeys(_ROWS, "rows")
"""By name: ``"both"`` where rows were batched and lengths padded, ``"rows"`` where only batched."""


def main() -> None:
    found: dict[str, Capture] = {}
    shares, seconds = [], {}
    for architecture in ARCHITECTURES:
        with asked() as spent:
            began = time.perf_counter()
            found[architecture.name] = _captured(architecture)
            seconds[architecture.name] = time.perf_counter() - began
        shares.append(sum(spent) / (seconds[architecture.name] - sum(spent)))
    publish(
        "zoo",
        "Real architectures that may be batched and padded, and how that is known",
        {
            "architectures": len(found),
            "batched before, share still batched": Figure(
                kept(found, ("both", "rows"), lambda c: c.batching.allowed), 0.95, at_most=False
            ),
            "padded before, share still padded": Figure(
                kept(found, ("both",), lambda c: c.padding.allowed), 0.95, at_most=False
            ),
            "added to a wrap, share (median)": Figure(float(np.median(shares)), 0.2),
            "added to a wrap, share (largest)": float(max(shares)),
            **counted("batching", found),
            **counted("padding", found),
        },
        lost={name: describe(learned) for name, learned in found.items() if lost(name, learned)},
        seconds=seconds,
        found={name: describe(learned) for name, learned in found.items()},
    )


def kept(
    found: dict[str, Capture], before: tuple[str, ...], allowed: Callable[[Capture], bool]
) -> float:
    """The share of those that were so `before` and still are."""
    names = [name for name in found if BEFORE.get(name) in before]
    return sum(allowed(found[name]) for name in names) / max(1, len(names))


def lost(name: str, learned: Capture) -> bool:
    before = BEFORE.get(name)
    gone = before is not None and not learned.batching.allowed
    return gone or (before == "both" and not learned.padding.allowed)


def counted(liberty: str, found: dict[str, Capture]) -> dict[str, int]:
    """How many are proven, inferred and off."""
    kinds = Counter(getattr(learned, liberty).status for learned in found.values())
    return {f"{liberty} {kind}": kinds[kind] for kind in ("proven", "inferred", "off")}


def describe(learned: Capture) -> dict[str, Any]:
    return {
        "program": learned.reason or "exported",
        "batching": str(learned.batching),
        "padding": str(learned.padding),
    }


def _captured(architecture: Architecture) -> Capture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        return capture(architecture.make(), architecture.examples())


@contextmanager
def asked() -> Iterator[list[float]]:
    """Seconds that proofs and hard experiments take while it lasts."""
    spent: list[float] = []
    before = {name: getattr(steps, name) for name in _ASKING}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - began)

        return call

    for name, function in before.items():
        setattr(steps, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in before.items():
            setattr(steps, name, function)
