"""NaNs and infinities that a program makes of finite numbers: where, and what takes them in.

Overflow of sums and products is not followed: it takes inputs beyond all reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch.fx import Node

from supernet.domain.engine import words
from supernet.domain.graph import arguments, dtype_of, name_of
from supernet.domain.interval import ANY
from supernet.domain.values import Values

__all__ = ["Takers", "infinities", "undefined"]

Takers = dict[str, frozenset[str]]
"""By the operator that makes it, the names of those that it may reach."""

_ROWS = frozenset(("softmax", "_softmax", "log_softmax", "_log_softmax"))
_ABSORBING = _ROWS | words("sigmoid tanh erf argmax argmin") - words("log_softmax _log_softmax")
_VIEWS = words("unsqueeze expand view reshape slice to _to_copy bool contiguous")
_EXP_MOST = 80.0  # beyond 88 the result is infinite in float32


def undefined(
    nodes: Any, values: Values, varying: Collection[Node], shown: Collection[str]
) -> Takers:
    """Operators that may make a NaN of finite numbers.

    ``varying``: what depends on the contents of the inputs. ``shown``: placeholders of masks that
    hide no row whole.
    """
    hiding = [node for node in nodes if _writes_infinity(node, values)]
    lone = {node for node in hiding if _shows_a_key(node, shown)}
    found = [node for node in varying if _is_undefined(node, values)]
    reached = {source: _reached(nodes, {source}) for source in hiding}
    for node in nodes:
        if name_of(node) in _ROWS:
            reaching = [source for source in hiding if node in reached[source]]
            if len(reaching) > 1 or not lone.issuperset(reaching):
                found.append(node)
    return _takers(nodes, found, frozenset())


def _shows_a_key(node: Node, shown: Collection[str]) -> bool:
    """Whether the infinity goes to keys that one of the masks hides, and it shows one of 1."""
    given = arguments(node)
    condition = given.get("mask", given.get("condition"))
    if not isinstance(condition, Node):
        return False
    shape = condition.meta["val"].shape
    is_keys = len(shape) == 2 or (len(shape) > 2 and shape[-2] == 1)
    hides = "mask" in given or _is_infinite(given["self"])  # else it is where the condition fails
    return is_keys and _at_one(condition, shown) is (not hides)


def _at_one(node: Any, shown: Collection[str]) -> bool | None:
    """What a condition is where the mask it is made of is 1; None where it is no such condition."""
    if not isinstance(node, Node):
        return None
    if node.op == "placeholder":
        return True if node.name in shown else None
    first = _at_one(node.args[0], shown) if node.args else None
    name = name_of(node)
    if first is None or name in _VIEWS:
        return first
    if name in ("logical_not", "bitwise_not") and dtype_of(node) == "bool":
        return not first
    other = node.args[1] if len(node.args) > 1 else None
    if name in ("eq", "ne", "gt") and isinstance(other, int):
        number = int(first)
        return {"eq": number == other, "ne": number != other, "gt": number > other}[name]
    return None


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


def infinities(
    nodes: Any, values: Values, varying: Collection[Node]
) -> tuple[Takers, tuple[bool, ...]]:
    """Operators that write an infinity, or may make one of finite numbers; and by output, whether
    one may reach it."""
    found = [
        node
        for node in nodes
        if _writes_infinity(node, values) or (node in varying and _overflows(node, values))
    ]
    carried = _carried(nodes, set(found), _ABSORBING)
    output = next(node for node in nodes if node.op == "output")
    answers = tuple(node in carried for node in output.args[0])
    return _takers(nodes, found, _ABSORBING), answers


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
        return any(_is_infinite(value) for value in arguments(node).values())
    return node.op == "placeholder" and values.holds_infinity(node)


def _overflows(node: Node, values: Values) -> bool:
    name = name_of(node)
    if name in ("exp", "exp2", "expm1") and "float" in (dtype_of(node) or ""):
        return values[node.args[0]].most > _EXP_MOST
    return name in _DOMAINS and name not in ("acos", "asin") and _is_undefined(node, values)


def _takers(nodes: Any, sources: list[Node], absorbing: frozenset[str]) -> Takers:
    found: Takers = {}
    for source in sources:
        reached = _reached(nodes, {source}, absorbing) - {source}
        names = frozenset(name_of(node) for node in reached if node.op == "call_function")
        found[name_of(source)] = found.get(name_of(source), frozenset()) | names
    return found


def _reached(nodes: Any, sources: set[Node], absorbing: frozenset[str] = frozenset()) -> set[Node]:
    """The sources, and every operator that takes in what one of them made."""
    carried = _carried(nodes, sources, absorbing)
    return carried | {node for node in nodes if not carried.isdisjoint(node.all_input_nodes)}


def _carried(nodes: Any, sources: set[Node], absorbing: frozenset[str]) -> set[Node]:
    """The sources, and every operator whose result may hold what one of them made."""
    carried = set(sources)
    for node in nodes:
        if name_of(node) not in absorbing and not carried.isdisjoint(node.all_input_nodes):
            carried.add(node)
    return carried


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
