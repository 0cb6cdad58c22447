"""Real English sentences of natural lengths: the standard library's own documentation."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from pathlib import Path

__all__ = ["sentences"]

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_START = re.compile(r"[A-Z][a-z]")


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """`count` sentences in a seeded order, repeating when the library has fewer.

    With Python 3.11 there are about 7,000 different ones; mean 16 words, a long tail.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    found = sorted(
        {sentence for path in _modules() for text in _docs(path) for sentence in _split(text)}
    )
    random.Random(seed).shuffle(found)
    return [found[i % len(found)] for i in range(count)]


def _modules() -> list[Path]:
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def _docs(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [doc for doc in docs if doc]


def _split(text: str) -> list[str]:
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return [
        sentence
        for paragraph in paragraphs
        for sentence in _END.split(paragraph)
        if len(sentence.split()) >= 4 and _START.match(sentence) and ">>>" not in sentence
    ]
