"""About ninety architectures, small and with random weights: how a user would call each.

All from the `transformers` package, whose code other people wrote without evolve in mind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["ARCHITECTURES", "Architecture"]

_WORDS = 99
_LENGTHS = (7, 12)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A configuration class's stem, what differs from the common small settings, and its inputs.

    ``model`` is a class of `transformers`, ``Model`` after the stem where it is empty. ``kind``
    says what it is called with: words, words without a mask, an image, or sound.
    """

    stem: str
    kind: str = "words"
    model: str = ""
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return self.model or self.stem

    def make(self) -> torch.nn.Module:
        """The model in eval mode, always with the same weights."""
        import transformers

        settings = {**_COMMON[self.kind], **dict(self.more)}
        config = getattr(transformers, f"{self.stem}Config")(**settings)
        torch.manual_seed(0)
        made: torch.nn.Module = getattr(transformers, self.model or f"{self.stem}Model")(config)
        return made.eval()

    def examples(self) -> list[dict[str, Any]]:
        return list(_CALLS[self.kind](self))


_COMMON: dict[str, dict[str, Any]] = {
    "words": {
        "vocab_size": _WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "image": {
        "image_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "patch_size": 8,
    },
    "pyramid": {},
    "sound": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "conv_dim": (16, 16), "conv_stride": (4, 4),
        "conv_kernel": (8, 8), "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    },
}  # fmt: skip
_COMMON["bare"] = _COMMON["words"]
_COMMON["decoder"] = {**_COMMON["words"], "num_key_value_heads": 4}


def _words(architecture: Architecture) -> Iterator[dict[str, Any]]:
    for length in _LENGTHS:
        ids = torch.randint(3, _WORDS, (1, length), generator=torch.Generator().manual_seed(length))
        call = {"input_ids": ids}
        if architecture.kind != "bare":
            call["attention_mask"] = torch.ones_like(ids)
        if architecture.kind == "decoder":
            call["use_cache"] = False  # type: ignore[assignment]
        yield call


def _image(architecture: Architecture) -> Iterator[dict[str, Any]]:
    size = 32 if architecture.kind == "image" else 64
    yield {
        "pixel_values": torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    }


def _sound(architecture: Architecture) -> Iterator[dict[str, Any]]:
    for length in (400, 640):
        rng = torch.Generator().manual_seed(length)
        yield {"input_values": torch.randn(1, length, generator=rng)}


_CALLS: dict[str, Callable[[Architecture], Iterator[dict[str, Any]]]] = {
    "words": _words, "decoder": _words, "bare": _words, "image": _image, "pyramid": _image,
    "sound": _sound,
}  # fmt: skip


def _all(kind: str, *stems: str, **more: Any) -> tuple[Architecture, ...]:
    return tuple(Architecture(stem, kind, more=tuple(more.items())) for stem in stems)


_CAUSAL = {
    f"{stem}ForCausalLM": stem
    for stem in (
        "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Phi", "Falcon", "Bloom", "OPT", "MPT",
        "StableLm", "Olmo", "Starcoder2", "Cohere", "GPTNeoX", "CodeGen", "GPTJ", "Granite",
        "XGLM", "BioGpt", "Persimmon", "GPTBigCode", "Gemma2", "Olmo2", "Glm", "Nemotron",
    )
}  # fmt: skip
_SETTINGS: dict[str, dict[str, Any]] = {
    "Gemma": {"head_dim": 8}, "Gemma2": {"head_dim": 8}, "Qwen3": {"head_dim": 8},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "MPT": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "CodeGen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    "GPTBigCode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "XGLM": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4},
    "Phi": {"partial_rotary_factor": 0.5}, "Glm": {"head_dim": 8, "num_key_value_heads": 4},
    "Bloom": {"n_head": 4, "n_layer": 2},
}  # fmt: skip
_GPT2 = (("n_embd", 32), ("n_layer", 2), ("n_head", 4), ("n_positions", 64))

ARCHITECTURES: tuple[Architecture, ...] = (
    *_all("words", "Bert", "Roberta", "XLMRoberta", "Electra", "MPNet", "Camembert", "Ernie",
          "MegatronBert", "RoFormer", "Splinter", "Data2VecText", "IBert", "Albert", "LayoutLM",
          "RoCBert", "ConvBert", "Nystromformer", "ModernBert", "XLMRobertaXL",
          "RobertaPreLayerNorm"),
    *_all("words", "SqueezeBert", embedding_size=32),
    *_all("words", "Xmod", languages=["en_XX"], default_language="en_XX"),
    Architecture("BertGeneration", "words", "BertGenerationEncoder"),
    *_all("words", "DistilBert", dim=32, hidden_dim=64, n_layers=2, n_heads=4),
    *_all("words", "Deberta", "DebertaV2"),
    *_all("words", "RemBert", input_embedding_size=32, output_embedding_size=32),
    *_all("words", "MobileBert", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    *_all("words", "XLM", emb_dim=32, n_layers=2, n_heads=4, n_words=_WORDS),
    *_all("words", "Flaubert", emb_dim=32, n_layers=2, n_heads=4, n_words=_WORDS),
    *_all("words", "Esm", position_embedding_type="rotary"),
    *_all("bare", "FNet", "Canine"),
    Architecture("Bert", "words", "BertForSequenceClassification"),
    Architecture("Bert", "words", "BertForMaskedLM"),
    Architecture("Roberta", "words", "RobertaForTokenClassification"),
    Architecture("T5", "words", "T5EncoderModel", (
        ("d_model", 32), ("d_kv", 8), ("d_ff", 64), ("num_layers", 2), ("num_heads", 4),
    )),
    Architecture("UMT5", "words", "UMT5EncoderModel", (
        ("d_model", 32), ("d_kv", 8), ("d_ff", 64), ("num_layers", 2), ("num_heads", 4),
    )),
    Architecture("GPT2", "decoder", "GPT2LMHeadModel", _GPT2),
    Architecture("GPT2", "decoder", "GPT2ForSequenceClassification", _GPT2),
    Architecture("GPTNeo", "decoder", "GPTNeoForCausalLM", (
        ("attention_types", [[["global", "local"], 1]]), ("num_layers", 2), ("num_heads", 4),
    )),
    Architecture("Mixtral", "decoder", "MixtralForCausalLM", (
        ("num_local_experts", 4), ("num_key_value_heads", 4),
    )),
    *(
        Architecture(
            stem, "decoder", model.replace("MPT", "Mpt"), tuple(_SETTINGS.get(stem, {}).items())
        )
        for model, stem in _CAUSAL.items()
        if stem != "MPT"
    ),
    Architecture("Mpt", "decoder", "MptForCausalLM", tuple(_SETTINGS["MPT"].items())),
    *_all("image", "ViT", "DeiT", "Beit", "Dinov2", "ViTMSN", "CLIPVision", "Data2VecVision",
          "SiglipVision", "ViTMAE"),
    *_all("pyramid", "ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    *_all("pyramid", "RegNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
          groups_width=8),
    *_all("pyramid", "ConvNext", num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]),
    *_all("pyramid", "ConvNextV2", num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]),
    *_all("pyramid", "Swin", image_size=64, embed_dim=8, depths=[2, 2], num_heads=[2, 2],
          window_size=4, patch_size=4),
    *_all("pyramid", "Swinv2", image_size=64, embed_dim=8, depths=[2, 2], num_heads=[2, 2],
          window_size=4, patch_size=4),
    *_all("pyramid", "MobileNetV2", "MobileNetV1", image_size=64),
    *_all("pyramid", "MobileViT", image_size=64, patch_size=2, hidden_sizes=[16, 16, 16],
          neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 8], num_attention_heads=2),
    *_all("pyramid", "Segformer", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
          num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16),
    *_all("pyramid", "PoolFormer", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
    *_all("sound", "Wav2Vec2", "Hubert", "WavLM", "UniSpeech"),
)  # fmt: skip
