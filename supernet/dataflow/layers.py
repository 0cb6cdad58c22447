"""Recurrent layers, and the table of all rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from supernet.dataflow import constants, indexing, parts, products, reductions, views
from supernet.dataflow.interpreter import Call, Rule, top
from supernet.dataflow.intervals import ANY, UNBOUNDED, Interval
from supernet.dataflow.pointwise import entrywise
from supernet.dataflow.values import Span, Value, follows, places, worst

__all__ = ["RULES"]


def _recurrent(call: Call) -> Any:
    """LSTM, GRU, RNN over [B, T, C] or [T, B, C]: a step reads those before it."""
    if "input" not in call.given or not isinstance(call.get("batch_first"), bool):
        return top(call, "is a recurrent layer over packed sequences", sure=True)
    value: Value = call["input"].plain()
    time, batch = (1, 0) if call["batch_first"] else (0, 1)
    if len(value.dims) != 3:
        return top(call, "is a recurrent layer without a batch", sure=True)
    coupled = moved = ending = None
    if any(follows(value.dims[axis], "rows") for axis in (time, 2)):
        coupled = call.trouble("runs over the rows of the batch")
    if follows(value.dims[batch], "length") or follows(value.dims[2], "length"):
        moved = call.trouble("mixes positions")
    if follows(value.dims[time], "length"):
        ending = call.trouble("ends after the padding")
        if call.get("bidirectional"):
            moved = call.trouble("runs backwards from the padding")
        elif value.dims[time] != ("length",):
            moved = call.trouble("runs over a dim that follows the length")
    states = [v for v in call.tensors if len(v.dims) == 3 and v is not call["input"]]
    if any(place.dim != 1 for state in states for place in places(state.dims, "rows")):
        coupled = call.trouble("has states of other rows")
    bound = Interval(-1.0, 1.0) if all(v.finite for v in call.tensors) else UNBOUNDED
    made = []
    for index in range(len(call.node.meta["val"])):
        dims = list(call.dims(index))
        if index == 0:
            dims[time], dims[batch] = value.dims[time], value.dims[batch]
        else:
            dims[1] = value.dims[batch]
        spans = (Span(bound, bound),) * len(places(dims, "length"))
        made.append(
            Value(
                tuple(dims),
                value.rows,
                bound if index < 2 else UNBOUNDED,
                bound if index < 2 else UNBOUNDED,
                spans,
                coupled=worst([coupled, *(v.plain().coupled for v in call.tensors)]),
                moved=worst([moved, ending if index else None, *(v.moved for v in call.tensors)]),
            )
        )
    return tuple(made)


def _cell(call: Call) -> Any:
    """One step of a recurrent layer: input [B, C], state [B, H] or two of them."""
    value: Value = call["input"].plain()
    states = [v for v in call.tensors[1:] if len(v.dims) == 2 and follows(v.dims[0], "rows")]
    misplaced = [v for v in call.tensors if any(follows(dim, "rows") for dim in v.dims[1:])]
    lengthy = any(follows(dim, "length") for v in call.tensors for dim in v.dims)
    if (
        len(value.dims) != 2
        or misplaced
        or lengthy
        or any(v.dims[0] != value.dims[0] for v in states)
    ):
        return top(call, "is a recurrent cell over other dims", sure=False)
    made = ANY if all(v.finite for v in call.tensors) else UNBOUNDED
    several = call.node.meta["val"]
    count = 1 if isinstance(several, Tensor) else len(several)
    results = tuple(
        Value(
            (value.dims[0], *call.dims(None if count == 1 else index)[1:]), value.rows, made, made,
            coupled=worst(v.plain().coupled for v in call.tensors),
            moved=worst(v.moved for v in call.tensors),
        )
        for index in range(count)
    )  # fmt: skip
    return results[0] if isinstance(several, Tensor) else results


def _nothing(call: Call) -> None:
    """An assertion about shapes or dtypes: it computes nothing."""


_KEPT = (
    "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "positive", "_to_copy", "to",
    "type_as", "float", "dropout", "feature_dropout", "alpha_dropout",
)  # fmt: skip
_ENTRYWISE = (
    "where", "masked_fill", "clamp", "clamp_min", "clamp_max", "relu6", "hardswish", "prelu",
    "silu", "gelu", "leaky_relu", "__and__", "__or__", "__xor__", "pow", "rsub", "square",
    "softplus", "nan_to_num", "floor_divide", "remainder", "fmod", "isnan", "isinf", "isfinite",
    "log_sigmoid", "hardtanh", "celu", "selu", "elu", "threshold", "bitwise_left_shift",
    "bitwise_right_shift", "__lshift__", "__rshift__", "lerp", "addcmul", "addcdiv", "logical_xor",
    "multiply", "subtract", "divide", "true_divide", "negative", "absolute", "greater", "less",
    "greater_equal", "less_equal", "not_equal", "clip", "sign", "fix", "float_power",
)  # fmt: skip

RULES: Mapping[str, Rule] = {
    **{f"aten::{name}": entrywise for name in (*_KEPT, *_ENTRYWISE)},
    **{
        f"aten::{name}": rule
        for room in (views, parts, constants, reductions, products, indexing)
        for name, rule in room.RULES.items()
    },
    **dict.fromkeys(("aten::gru_cell", "aten::lstm_cell", "aten::rnn_tanh_cell",
                     "aten::rnn_relu_cell"), _cell),
    **dict.fromkeys(("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"), _recurrent),
    **dict.fromkeys(
        ("aten::_assert_tensor_metadata", "aten::sym_constrain_range", "aten::_assert_scalar",
         "aten::sym_constrain_range_for_size", "aten::_assert_async"),
        _nothing),
    "pointwise": entrywise,
}  # fmt: skip
"""By the operator's name in its schema; ``pointwise`` for all that torch tags so."""
