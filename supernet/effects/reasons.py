"""Reasons that keep a model from being captured, in plain words with the remedy."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["RECOMPUTED", "explained", "one_line"]

_LIBRARY = (Path(torch.__file__).parent, Path(__file__).parents[1])
_STANDARD = Path(re.__file__).parent.parent
_LONGEST_CODE = 60


@dataclass(frozen=True, slots=True)
class _Reason:
    """``pattern`` in an error's kind or text means ``words``; ``remedy`` is what to do."""

    pattern: str
    words: str
    remedy: str


RECOMPUTED = (
    "is computed anew in every call (torch.nn.utils.weight_norm, spectral_norm or prune); remove "
    "that (torch.nn.utils.remove_weight_norm), or use torch.nn.utils.parametrizations"
)

# The first that matches is told.
_REASONS = (
    _Reason(
        r"Only Tensors created explicitly by the user.*deepcopy",
        "it holds a result of earlier calculations with its gradient, such as a weight that "
        "torch.nn.utils.weight_norm computes anew in every call",
        "call torch.nn.utils.remove_weight_norm(module), use "
        "torch.nn.utils.parametrizations.weight_norm, or detach() what is kept",
    ),
    _Reason(
        r"GuardOnDataDependentSymNode|data-dependent",
        "the model's code takes a path or makes a shape that depends on the values of a tensor "
        "(data-dependent)",
        "write it with torch.where or masks, which run for every value",
    ),
    _Reason(
        r"SpecViolationError|ScriptModule|ScriptFunction",
        "the model is or holds a ScriptModule, whose code torch.export cannot read",
        "wrap the Python module that it was made of",
    ),
    _Reason(
        r"fake tensor in the exported program constant",
        "the model makes a tensor in a way that torch.export loses track of (.data, autograd or "
        "NumPy in the forward)",
        "use detach() in place of .data, and torch in place of NumPy",
    ),
    _Reason(
        r"does not require grad and does not have a grad_fn|requires_grad",
        "the model computes gradients in its forward, which plans cannot",
        "nothing needs to be done for the original to serve, with gradients on; wrap the part "
        "without them to have that captured",
    ),
    _Reason(
        r"cannot pickle '([\w. ]+)' object",
        "it holds an object of type {found}, of which there is no copy",
        "leave it out of the module's attributes, or make it when it is needed",
    ),
    _Reason(
        r"Inference tensors|inference tensor",
        "the weights were made in torch.inference_mode, which tracing cannot take",
        "load or clone them outside of it",
    ),
)


def explained(error: BaseException) -> str:
    """What an error in a capture means, where the user's code provoked it, and the remedy."""
    said = one_line(error)
    whole = f"{type(error).__name__}: {error}"
    for reason in _REASONS:
        if (match := re.search(reason.pattern, whole)) is not None:
            found = match.group(1) if match.lastindex else match.group(0)
            words = reason.words.format(found=found)
            return f"{words}{_place(error)}; {reason.remedy}"
    return said


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception as one short line that begins with its kind."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _place(error: BaseException) -> str:
    """``, at model.py:12: if x.sum() > 0:``: the innermost line that is not the library's."""
    told = [(f.filename, f.lineno, f.line or "") for f in traceback.extract_tb(error.__traceback__)]
    told += [
        (file, int(line), code.strip())
        for file, line, code in re.findall(r'File "([^"]+)", line (\d+), in .*\n(.*)', str(error))
    ]
    for file, line, code in reversed(told):
        path = Path(file)
        if path.exists() and path.parent != _STANDARD and not _within(path, _LIBRARY):
            return f", at {path.name}:{line}: {code[:_LONGEST_CODE]}"
    return ""


def _within(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
