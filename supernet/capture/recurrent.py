"""Recurrent layers whose length stays free while a program is traced.

Torch describes what ``aten.lstm.input`` and its kin give by unrolling them, step by step, which
fixes the length at the sample's. Only the shapes of the results are asked for, and these are known
without. torch/_decomp/decompositions.py, ``lstm_impl``
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.export import ExportedProgram

__all__ = ["any_length", "is_recurrent", "shapes_of"]

_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)
_LOCK = threading.RLock()  # the kernels are the whole process's
_HERE = threading.local()

Kernel: TypeAlias = Callable[..., Any]


@contextmanager
def any_length() -> Iterator[None]:
    """While it lasts, this thread's traces keep LSTM, GRU and RNN layers whole, lengths free.

    Nothing that runs is changed: the kernels replaced are those that only tracing asks, and other
    threads still get theirs. A compiler that takes them for the layers' arithmetic, as
    TorchInductor does, must not run in it.
    """
    with _LOCK:
        before = {op: dict(op.py_kernels) for op in _shapes()}
        was_active = getattr(_HERE, "active", False)
        try:
            for op, shapes in _shapes().items():
                kernels = before[op]
                own = {key: _here(shapes, kernels[key]) for key in _KEYS if key in kernels}
                _set_kernels(op, {**kernels, **own})
            _HERE.active = True
            yield
        finally:
            _HERE.active = was_active
            for op, kernels in before.items():
                _set_kernels(op, kernels)


def shapes_of(target: Any) -> Kernel | None:
    """For a recurrent layer, the function that makes results of its shapes; None for the rest."""
    return _shapes().get(target)


def is_recurrent(program: ExportedProgram) -> bool:
    """Whether such a layer is in the program."""
    return any(shapes_of(node.target) is not None for node in program.graph.nodes)


def _shapes() -> dict[Any, Kernel]:
    aten = torch.ops.aten
    return {
        aten.lstm.input: _lstm, aten.gru.input: _gru,
        aten.rnn_tanh.input: _gru, aten.rnn_relu.input: _gru,
    }  # fmt: skip


def _here(shapes: Kernel, elsewhere: Kernel) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        return (shapes if getattr(_HERE, "active", False) else elsewhere)(*args, **kwargs)

    return kernel


def _set_kernels(op: Any, kernels: dict[DispatchKey, Kernel]) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()


def _lstm(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool, layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hidden, cell = state
    return _outputs(x, hidden, bidirectional), torch.empty_like(hidden), torch.empty_like(cell)


def _gru(
    x: Tensor, hidden: Tensor, weights: Sequence[Tensor], has_biases: bool, layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _outputs(x, hidden, bidirectional), torch.empty_like(hidden)


def _outputs(x: Tensor, hidden: Tensor, bidirectional: bool) -> Tensor:
    """Of the last layer at every step, both directions side by side."""
    directions = 2 if bidirectional else 1
    return x.new_empty((*x.shape[:-1], directions * hidden.shape[-1]))
