"""Public language models by the name of their repository, from their `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sims.devices.models import Transformer

_LLAMA_70B = {"layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8}
_LLAMA_7B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 32}
_GROUPED_7B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8}

LLMS: Mapping[str, Transformer] = MappingProxyType(
    {
        "Aquila-7B": Transformer(7.3e9, **_LLAMA_7B),
        "DeciLM-7B": Transformer(7.04e9, 32, 4096, 32, 67 / 32),  # 1, 2 or 4, by layer
        "Llama-2-7b-hf": Transformer(6.74e9, **_LLAMA_7B),
        "Llama-2-70b-hf": Transformer(68.98e9, **_LLAMA_70B),
        "Meta-Llama-3-8B": Transformer(8.03e9, **_GROUPED_7B),
        "Meta-Llama-3-70B": Transformer(70.55e9, **_LLAMA_70B),
        "Mistral-7B-v0.1": Transformer(7.24e9, **_GROUPED_7B),
        "Mixtral-8x7B-v0.1": Transformer(
            46.7e9, **_GROUPED_7B, active_parameters=12.9e9, experts=8, experts_used=2
        ),
        "Qwen1.5-7B": Transformer(7.72e9, **_LLAMA_7B),
        "Qwen2-7B": Transformer(7.62e9, 28, 3584, 28, 4),
        "Qwen2-72B": Transformer(72.7e9, **_LLAMA_70B),
        "bloom-7b1": Transformer(7.07e9, 30, 4096, 32, 32),
        "gpt-j-6b": Transformer(6.05e9, 28, 4096, 16, 16, head_width=256),
        "llama-7b": Transformer(6.74e9, **_LLAMA_7B),
        "opt-6.7b": Transformer(6.66e9, **_LLAMA_7B),
    }
)
