"""Rounding noise of a model's answer to one request, by Monte Carlo arithmetic.

Whether a difference is a fault cannot be told from its size: a probability of 1 − 1e-7, a distance
of nearly equal points and the position of a maximum differ wildly between two right answers. So the
model is asked again with every sum, product and transcendental function disturbed by far more than
its kernels round (D. S. Parker, "Monte Carlo Arithmetic", 1997). What stays put meanwhile, and yet
differs in an answer, is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode
from torch.utils._pytree import tree_map

__all__ = ["RUNS", "noisy_answers"]

RUNS = 12  # a decision on the edge flips in about half of them
_ULPS = 16.0

# What only makes, moves or chooses values is exact everywhere, and is often compared for equality
# afterwards. Everything else may sum in another order for another batch size, padded length or
# engine, fused operators and those of other libraries included.
_EXACT = frozenset({
    "abs", "amax", "amin", "aminmax", "arange", "argmax", "as_strided_copy", "bernoulli", "cat",
    "ceil", "clamp", "clamp_max", "clamp_min", "clone", "col2im", "constant_pad_nd", "copy",
    "cummax", "cummin", "diag_embed", "empty", "empty_like", "empty_strided", "eye", "expand_copy",
    "embedding", "fill", "flip", "floor", "fmax", "fmin", "full", "full_like", "gather", "hardtanh",
    "im2col", "index", "index_copy", "index_fill", "index_put", "index_select", "kthvalue",
    "leaky_relu", "lift_fresh_copy", "linspace", "masked_fill", "masked_scatter", "masked_select",
    "max", "max_pool2d_with_indices", "max_pool3d_with_indices", "maximum", "median", "min",
    "minimum", "mode", "nan_to_num", "neg", "new_empty", "new_full", "new_ones", "new_zeros",
    "ones", "ones_like", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d",
    "reflection_pad2d", "relu", "repeat", "repeat_interleave", "replication_pad1d",
    "replication_pad2d", "roll", "round", "scalar_tensor", "scatter", "select_scatter", "sgn",
    "sign", "slice_scatter", "sort", "stack", "take", "_to_copy", "topk", "tril", "triu", "trunc",
    "unfold_copy", "upsample_nearest1d", "upsample_nearest2d", "where", "zeros", "zeros_like",
    "_unsafe_index", "_unsafe_view", "_adaptive_max_pool2d", "adaptive_max_pool2d", "max_unpool2d",
})  # fmt: skip


def noisy_answers(
    answer: Callable[[], Sequence[Tensor]], at_least: float = 0.0
) -> Iterator[Sequence[Tensor]]:
    """What ``answer``, a run of the model in torch, gives under ``RUNS`` disturbances, one by one.

    Each operand and result of a rounding operator is scaled by 1 ± 16 units in the last place of
    its dtype, or ± ``at_least`` where that is more (an engine that is less exact by design).

    >>> x = torch.tensor([0.1, 0.2, 0.3])
    >>> runs = list(noisy_answers(lambda: [x.sum(), x.amax()]))
    >>> len({float(run[0]) for run in runs}) > 1, {float(run[1]) for run in runs} == {float(x[2])}
    (True, True)
    """
    for seed in range(RUNS):
        with torch.no_grad(), _Disturbed(at_least, seed):
            given = answer()
        yield given


class _Disturbed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Holds for the thread that enters it; nobody else's arithmetic is touched."""

    def __init__(self, at_least: float, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._at_least = at_least
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    # The inherited pair also sets flags of the whole process, and two threads that overlap leave
    # them set: an export or `torch.compile` elsewhere would go by them. The stack is the thread's.
    def __enter__(self) -> _Disturbed:
        _push_mode(self)
        return self

    def __exit__(self, *raised: object) -> None:
        _pop_mode(None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _rounds(func):
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._disturb, (args, kwargs))
        return tree_map(self._disturb, func(*args, **kwargs))

    def _disturb(self, value: Any) -> Any:
        # Whole numbers are counts and masks: summed and multiplied exactly, then compared.
        if not isinstance(value, Tensor) or not value.is_floating_point() or _is_whole(value):
            return value
        share = max(self._at_least, _ULPS * torch.finfo(value.dtype).eps)
        draw = torch.rand(
            value.shape, device=value.device, generator=self._generator(value.device)
        ).to(value.dtype)
        return value * (1.0 + share * (2.0 * draw - 1.0))

    def _generator(self, device: torch.device) -> torch.Generator:
        """One of its own: the user's random state is not to be moved."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _rounds(func: Any) -> bool:
    if func.namespace == "aten" and func._schema.name.removeprefix("aten::") in _EXACT:
        return False
    # A view, or a write in place: its result is another tensor's memory, to be left as it is.
    return all(given.alias_info is None for given in func._schema.returns)


def _is_whole(value: Tensor) -> bool:
    return bool((value == value.round()).all())
