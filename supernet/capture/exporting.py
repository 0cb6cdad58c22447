"""Turn a model into a program of flat tensors, and say for which sizes it is valid."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO, cast

import torch
from torch import Tensor, nn
from torch.export import Dim as ExportDim
from torch.export import ExportedProgram

from supernet.capture.calls.call_signature import CallForm
from supernet.capture.calls.pytree import flatten
from supernet.capture.dynamic_dims import Axes
from supernet.capture.recurrent import any_length
from supernet.effects.graph_effects import graph_effect
from supernet.effects.reasons import explained
from supernet.errors import Uncapturable
from supernet.signature import Dim

__all__ = [
    "Exported",
    "FixedByTrace",
    "Range",
    "export",
    "graph_text",
    "with_unknown",
]


_LOUD = ("torch.export", "torch.fx", "torch._dynamo", "torch._guards")


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes from ``least`` to ``most`` (None: no bound), both included."""

    least: int = 1
    most: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A program, the axes that stayed free in it, and whether it holds for a size.

    ``valid(rows, length)`` evaluates the conditions the trace relied on: Python code that
    branches on a size is followed one way only, and the program is wrong the other way.
    ``named`` says which symbols of the program are ``"rows"`` and ``"length"``.
    """

    program: ExportedProgram
    axes: Axes
    length: Range
    valid: Callable[[int, int], bool]
    named: Mapping[Any, str]
    note: str = ""


class FixedByTrace(Uncapturable):
    """The trace worked, so the code does not look at values, but it fixed a size."""


class _Flat(nn.Module):
    """The model as a function of tensors only: what every backend can take."""

    def __init__(self, model: nn.Module, form: CallForm) -> None:
        super().__init__()
        self.model = model
        self._form = form
        self.train(model.training)

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = self._form.arguments(leaves)
        outputs, _ = flatten(self.model(*args, **kwargs), "result")
        return tuple(outputs)


def export(
    model: nn.Module, form: CallForm, axes: Axes, sample: Callable[[Axes], Sequence[Tensor]]
) -> Exported:
    """The program with as many free axes as torch.export finds; ``Uncapturable`` if none works.

    ``model`` must be a copy of its own (the trace swaps parameters). ``sample(axes)`` gives
    inputs with at least two rows where rows are free, because torch.export takes 1 as fixed.
    """
    flat = _Flat(model, form)
    first, fixed = "", False
    for tried, note in _attempts(axes, sample(axes)):
        leaves = tuple(sample(tried))
        free = [_free(dims) for dims in tried.dims]
        strictness = (False, True) if tried is axes else (False,)
        for strict in strictness:
            try:
                program = _trace(flat, leaves, free, strict=strict)
            except Exception as error:  # torch.export raises whatever the model's code provokes
                first = first or explained(error)
                continue
            if (effect := graph_effect(program)) is not None:
                raise Uncapturable(f"the model {effect}")
            bounds = _bounds(program, tried, leaves)
            if isinstance(bounds, str):
                first, fixed = first or bounds, True
                continue
            return Exported(program, tried, *bounds, note=f"{note}: {first}" if note else "")
    if fixed:
        raise FixedByTrace(f"no program with free sizes: {first}")
    raise Uncapturable(f"torch.export cannot take the model: {first}")


def _attempts(axes: Axes, leaves: Sequence[Tensor]) -> Iterator[tuple[Axes, str]]:
    """The axes to try, freest first. A length is never fixed: the examples say it varies, and
    a program for one of them would serve next to none of the traffic."""
    yield axes, ""
    if axes.batchable:
        yield axes.fixed(leaves, "rows"), "the program has a fixed number of rows"


def _free(dims: Iterable[Any]) -> dict[int, Any]:
    return {index: ExportDim.AUTO for index, dim in enumerate(dims) if isinstance(dim, str)}


def _trace(
    flat: _Flat, leaves: tuple[Tensor, ...], free: list[dict[int, Any]], *, strict: bool
) -> ExportedProgram:
    with _silence(), torch.no_grad(), any_length():
        return torch.export.export(flat, leaves, dynamic_shapes=(tuple(free),), strict=strict)


@contextmanager
def _silence() -> Iterator[None]:
    """Tracing warns about third-party code; what matters comes out as an error or a note."""
    loud = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loud]
    mute = _MutedHere(sys.stderr)
    with warnings.catch_warnings(), contextlib.redirect_stderr(cast(TextIO, mute)):
        warnings.simplefilter("ignore")
        try:
            for logger in loud:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)


class _MutedHere:
    """stderr without what this thread writes: torch.export prints the graph it failed on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        muted = threading.get_ident() == self._thread
        return len(text) if muted else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _bounds(
    program: ExportedProgram, axes: Axes, leaves: Sequence[Tensor]
) -> tuple[Range, Callable[[int, int], bool], Mapping[Any, str]] | str:
    """The valid sizes and the symbols they are of, or why not: a dim that should be free was fixed
    by the trace."""
    named: dict[Any, str] = {}
    for fake, dims in zip(_input_values(program), axes.dims, strict=True):
        for size, dim in zip(fake.shape, dims, strict=True):
            if isinstance(dim, str):
                symbol = size.node.expr if isinstance(size, torch.SymInt) else None
                if symbol is None or not symbol.is_symbol:
                    return f"the trace fixes the {dim} at {size}"
                named[symbol] = dim
    length = Range()
    for symbol, interval in program.range_constraints.items():
        if named.get(symbol) == "length":
            most = int(interval.upper) if interval.upper.is_Integer else None
            least = max(length.least, int(interval.lower) if interval.lower.is_Integer else 1)
            length = Range(least, _least(length.most, most))
    return length, _validity(program, axes, leaves, named), _with_equals(program, named)


def _with_equals(program: ExportedProgram, named: Mapping[Any, str]) -> dict[Any, str]:
    """Also the symbols that the trace found equal to one of these and replaced."""
    known = dict(named)
    mode = next((v.fake_mode for v in _input_values(program) if hasattr(v, "fake_mode")), None)
    replaced = getattr(getattr(mode, "shape_env", None), "replacements", {})
    for _ in replaced:  # one may have been replaced by another that was replaced in turn
        for old, new in replaced.items():
            if new in known:
                known.setdefault(old, known[new])
    return known


def _least(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else min(a, b)


def _input_values(program: ExportedProgram) -> list[Any]:
    users = set(program.graph_signature.user_inputs)
    nodes = (n for n in program.graph.nodes if n.op == "placeholder" and n.name in users)
    return [node.meta["val"] for node in nodes]


def _validity(
    program: ExportedProgram, axes: Axes, leaves: Sequence[Tensor], named: dict[Any, str]
) -> Callable[[int, int], bool]:
    """Evaluate the trace's guards for any (rows, length)."""
    mode = next((v.fake_mode for v in _input_values(program) if hasattr(v, "fake_mode")), None)
    shapes = getattr(mode, "shape_env", None)
    if shapes is None or not named:
        return lambda rows, length: True
    # Symbols that the trace found equal are renamed; those not among the inputs any more are
    # told apart by the sizes of the sample, where rows and length differ.
    hints = getattr(shapes, "backed_var_to_val", None) or getattr(shapes, "var_to_val", {})
    sizes = {axes.rows(leaves): "rows", axes.length(leaves): "length"}
    conditions = [guard.expr for guard in getattr(shapes, "guards", ())]
    meaning: dict[Any, str] = {}
    for symbol in {s for condition in conditions for s in condition.free_symbols}:
        hint = int(hints[symbol]) if symbol in hints else None
        meaning[symbol] = named.get(symbol) or sizes.get(cast(int, hint), "")
    telling = [c for c in conditions if not _same_axis(c, meaning)]

    def valid(rows: int, length: int) -> bool:
        value = {"rows": rows, "length": length}
        for condition in telling:
            given = {s: value[meaning[s]] for s in condition.free_symbols if meaning[s]}
            if not condition.subs(given):  # anything still unknown stays symbolic, and true
                return False
        return True

    return valid


def _same_axis(condition: Any, meaning: dict[Any, str]) -> bool:
    """Whether it only says that two inputs share one axis, which flattening checks."""
    symbols = list(condition.free_symbols)
    return (
        type(condition).__name__ == "Equality"
        and len(symbols) == 2
        and set(condition.args) == set(symbols)
        and meaning[symbols[0]] == meaning[symbols[1]] != ""
    )


def with_unknown(
    outputs: Sequence[tuple[Dim, ...]], program: ExportedProgram
) -> tuple[tuple[Dim, ...], ...]:
    """These output dims, ``"any"`` where the size depends on the values (``nonzero``)."""
    node = next(n for n in reversed(program.graph.nodes) if n.op == "output")
    changed = []
    for dims, result in zip(outputs, node.args[0], strict=True):
        shape = result.meta["val"].shape if isinstance(result, torch.fx.Node) else dims
        changed.append(
            tuple("any" if _by_value(size) else dim for dim, size in zip(dims, shape, strict=True))
        )
    return tuple(changed)


def _by_value(size: Any) -> bool:
    if not isinstance(size, torch.SymInt):
        return False
    shapes = size.node.shape_env
    return any(shapes.is_unbacked_symint(symbol) for symbol in size.node.expr.free_symbols)


def graph_text(program: ExportedProgram) -> str:
    """The program as text that is the same in every process: ops, arguments, shapes, dtypes."""
    seen: dict[str, str] = {}

    def name(expression: Any) -> str:
        text = str(expression)
        return text if text.isdigit() else seen.setdefault(text, f"d{len(seen)}")

    lines = []
    for path, module in program.graph_module.named_modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            value = node.meta.get("val")
            kind = ""
            if isinstance(value, Tensor):
                kind = f"{value.dtype}[{','.join(name(size) for size in value.shape)}]"
            lines.append(
                f"{path} {node.op} {node.name} {node.target} {node.args} "
                f"{sorted(node.kwargs.items())} {kind}"
            )
    return "\n".join(lines)
