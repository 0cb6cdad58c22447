"""Where a program makes a NaN or an infinity of finite numbers, and what takes it in.

Overflow of sums and products is not followed: it takes inputs beyond all reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.fx import Node

from supernet.domain.graph import arguments, dtype_of, name_of
from supernet.domain.interval import ANY
from supernet.domain.values import Values

__all__ = ["Takers", "infinities", "undefined"]

Takers = dict[str, frozenset[str]]
"""By the operator that makes it, the names of those that it may reach."""

_ROWS = frozenset(("softmax", "_softmax", "log_softmax", "_log_softmax"))
_EXP_MOST = 80.0  # beyond 88 the result is infinite in float32


def undefined(nodes: Any, values: Values) -> Takers:
    """Operators that may make a NaN of finite numbers."""
    written = {node for node in nodes if _writes_infinity(node, values)}
    reached = _reached(nodes, written)
    found = [
        node
        for node in nodes
        if node.op == "call_function"
        and (_is_undefined(node, values) or (name_of(node) in _ROWS and node in reached))
    ]
    return _takers(nodes, found)


def infinities(nodes: Any, values: Values) -> Takers:
    """Operators that write an infinity, or may make one of finite numbers."""
    found = [node for node in nodes if _writes_infinity(node, values) or _overflows(node, values)]
    return _takers(nodes, found)


def _is_undefined(node: Node, values: Values) -> bool:
    if "float" not in (dtype_of(node) or ""):
        return False
    domain = _DOMAINS.get(name_of(node).removesuffix("_"))
    if domain is None:
        return False
    given = arguments(node)
    name, least, most = domain(given)
    return not values[given.get(name)].inside(least, most)


def _writes_infinity(node: Node, values: Values) -> bool:
    """An operator that has an infinity among its constants, or a constant that holds one."""
    if node.op == "call_function":
        return any(isinstance(a, float) and math.isinf(a) for a in arguments(node).values())
    return node.op == "placeholder" and values.holds_infinity(node)


def _overflows(node: Node, values: Values) -> bool:
    name = name_of(node)
    if name in ("exp", "exp2", "expm1") and "float" in (dtype_of(node) or ""):
        return values[node.args[0]].most > _EXP_MOST
    return name in _DOMAINS and name not in ("acos", "asin") and _is_undefined(node, values)


def _takers(nodes: Any, sources: list[Node]) -> Takers:
    found: Takers = {}
    for source in sources:
        reached = _reached(nodes, {source}) - {source}
        names = frozenset(name_of(node) for node in reached if node.op == "call_function")
        found[name_of(source)] = found.get(name_of(source), frozenset()) | names
    return found


def _reached(nodes: Any, sources: set[Node]) -> set[Node]:
    """The sources, and every operator that takes in what one of them made."""
    reached = set(sources)
    for node in nodes:
        if any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    return reached


_POSITIVE = (math.ulp(0.0), math.inf)


def _argument(name: str, least: float, most: float) -> Callable[[dict[str, Any]], Any]:
    return lambda given: (name, least, most)


def _power(given: dict[str, Any]) -> tuple[str, float, float]:
    """Whole powers take any base, negative ones any but 0."""
    power = given.get("exponent")
    if isinstance(power, (int, float)) and float(power).is_integer() and power >= 0:
        return "self", *ANY.ends
    return "self", *_POSITIVE


_DOMAINS: Mapping[str, Callable[[dict[str, Any]], tuple[str, float, float]]] = {
    "div": _argument("other", *_POSITIVE),
    "divide": _argument("other", *_POSITIVE),
    "true_divide": _argument("other", *_POSITIVE),
    "floor_divide": _argument("other", *_POSITIVE),
    "remainder": _argument("other", *_POSITIVE),
    "fmod": _argument("other", *_POSITIVE),
    "reciprocal": _argument("self", *_POSITIVE),
    "log": _argument("self", *_POSITIVE),
    "log2": _argument("self", *_POSITIVE),
    "log10": _argument("self", *_POSITIVE),
    "log1p": _argument("self", -1.0 + 1e-9, math.inf),
    "sqrt": _argument("self", 0.0, math.inf),
    "rsqrt": _argument("self", *_POSITIVE),
    "acos": _argument("self", -1.0, 1.0),
    "asin": _argument("self", -1.0, 1.0),
    "atanh": _argument("self", -1.0, 1.0),
    "acosh": _argument("self", 1.0, math.inf),
    "logit": _argument("self", 0.0, 1.0),
    "pow": _power,
}
