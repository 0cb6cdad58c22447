"""Filters over decisions: `kind=plan`, `reason~crash`, `seen.p99_ms>50`."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from evolve.journal.decision import Decision

__all__ = ["Filter", "matching"]

_FIELDS = tuple(item.name for item in fields(Decision))
_MAPPINGS = ("seen", "before", "after", "scores")
_SHAPE = re.compile(r"\s*([^\s=!~<>]+)\s*(!=|>=|<=|=|~|>|<)\s*(.*?)\s*", re.DOTALL)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition: a field, or an entry of a mapping field, against a value.

    `=` and `!=` compare as numbers where both sides are, else as text; `~` looks for a part of
    the text, whatever its case; `<`, `<=`, `>`, `>=` compare numbers. A decision that lacks the
    entry matches only `!=`.

    >>> Filter.parse("seen.p99_ms > 50")
    Filter(field='seen', entry='p99_ms', sign='>', value='50')
    """

    field: str
    entry: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Filter:
        """The condition in `text`. Raises `ValueError` saying what is wrong and what would do."""
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            raise ValueError(
                f"filter must be FIELD=VALUE, FIELD~PART or FIELD>NUMBER, got {text!r}"
            )
        name, sign, value = shape.groups()
        field, _, entry = name.partition(".")
        _check_name(field, entry)
        if sign in _ORDER and _number(value) is None:
            raise ValueError(f"filter {name}{sign} must compare with a number, got {value!r}")
        return cls(field, entry, sign, value)

    def matches(self, decision: Decision) -> bool:
        """Whether the decision meets the condition."""
        found = getattr(decision, self.field)
        if self.entry:
            if self.entry not in found:
                return self.sign == "!="
            found = found[self.entry]
        if self.sign == "~":
            return self.value.casefold() in _text(found).casefold()
        number, wanted = _number(found), _number(self.value)
        if self.sign in _ORDER:
            return number is not None and wanted is not None and _ORDER[self.sign](number, wanted)
        both = number is not None and wanted is not None
        equal = number == wanted if both else _text(found) == self.value
        return equal if self.sign == "=" else not equal


def matching(decisions: Iterable[Decision], filters: Iterable[Filter]) -> Iterator[Decision]:
    """The decisions that meet every filter, in their order."""
    wanted = tuple(filters)
    return (d for d in decisions if all(f.matches(d) for f in wanted))


def _check_name(field: str, entry: str) -> None:
    if field in _MAPPINGS and not entry:
        raise ValueError(f"filter on {field} must name an entry, such as {field}.name")
    if field in _FIELDS and entry and field not in _MAPPINGS:
        raise ValueError(f"filter field {field} must stand alone, got {field}.{entry}")
    if field not in _FIELDS:
        near = difflib.get_close_matches(field, _FIELDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"filter field must be one of {', '.join(_FIELDS)}, got {field!r}; "
            f"{hint}a signal is written seen.{field}"
        )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_text(v)}" for k, v in value.items())
    return str(value)
