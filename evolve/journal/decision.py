"""One decision: what was seen, what was chosen instead of what, why, and whether it was applied.

A decision is a value. `Journal.append` makes it, the file keeps it as one line, and nothing edits
it afterwards. Text that comes from outside (a model's error, a plan's name) is made harmless
before it is kept: control characters, ANSI sequences, line and direction marks become visible
escapes, and every field has a size limit, so that a journal is safe to `cat` and to parse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, cast

__all__ = ["KINDS", "SCHEMA_VERSION", "Decision", "RecordError", "field_table", "printable"]

SCHEMA_VERSION = 1
KINDS = ("tick", "plan", "policy", "worker", "request", "runtime", "tier", "generation")

MAX_TEXT = 2_000
MAX_ENTRIES = 100
MAX_DEPTH = 4

NOTHING: Mapping[str, Any] = MappingProxyType({})
# C0, DEL, C1, the line separators, zero-width and direction marks, the byte-order mark, and
# lone surrogates: what can move a cursor, forge a line or make a line read differently.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class RecordError(ValueError):
    """A line that is not a whole, unchanged record. The message says what is wrong with it."""


class NewerRecordError(RecordError):
    """A whole record, written by a newer version than this one: to be left alone."""


def _doc(text: str, example: str) -> Any:
    return field(metadata={"doc": text, "example": example})


@dataclass(frozen=True, slots=True)
class Decision:
    """What was seen, chosen, by whom and why. Never edited once written.

    >>> from evolve.journal.journal import Journal
    >>> journal = Journal(None, device="cpu-1a2b", clock=lambda: 0.0, wall=lambda: 0.0)
    >>> journal.append("plan", "onnxruntime-int8-t1", reason="error 0.009 is over 0.005").seq
    1
    """

    seq: int = _doc("Position in the journal, from 1, without gaps; goes on after a restart.", "42")
    at: str = _doc("Wall clock when it was recorded, ISO 8601, UTC.", '"2025-01-31T09:00:00.100Z"')
    uptime_s: float = _doc("Seconds on the monotonic clock since the journal was opened.", "12.5")
    kind: str = _doc(f"What was decided about: {', '.join(f'`{k}`' for k in KINDS)}.", '"tick"')
    subject: str = _doc(
        "Which one: a plan's key, a worker, a request, a tier, or the part of the runtime.",
        '"dispatch"',
    )
    policy: str = _doc("The policy that proposed it; empty when no policy was asked.", '"rule"')
    device: str = _doc("Key of the device's fingerprint.", '"cpu-x86_64-2c-1a2b3c4d"')
    seen: Mapping[str, float] = _doc(
        "The signals it was based on. For a tick, the numbers of the signals window.",
        '{"p99_ms": 61.2, "queue": 40.0}',
    )
    before: Mapping[str, Any] = _doc(
        "What held until then. For a tick, the rule's parameters by name.", '{"name": "default"}'
    )
    after: Mapping[str, Any] = _doc(
        "What was chosen in its place; equal to `before` when nothing was to change.",
        '{"name": "surge"}',
    )
    reason: str = _doc("Why, in words.", '"p99 is 122 % of the deadline"')
    scores: Mapping[str, float] = _doc(
        "What each option was expected to be worth to the policy; may be empty.",
        '{"default": 0.91, "surge": 0.97}',
    )
    applied: bool = _doc("False when a guard vetoed it and `before` stayed in force.", "true")

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values; infinities and NaN become the strings "inf", "nan"."""
        row = {f.name: _jsonable(getattr(self, f.name)) for f in fields(self)}
        return {"v": SCHEMA_VERSION, **row}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Decision:
        """The decision in a parsed record. Raises `RecordError` where it does not fit."""
        _check_version(row.get("v"))
        values: dict[str, Any] = {}
        for item in fields(cls):
            if item.name not in row:
                raise RecordError(f"{item.name} is missing")
            values[item.name] = _typed(item.name, row[item.name])
        return cls(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only views cannot be pickled or deep-copied; the JSON form can.
        return (Decision.from_json, (self.to_json(),))


_TEXTS = ("at", "kind", "subject", "policy", "device", "reason")
_NUMBERS = ("seen", "scores")
_VALUES = ("before", "after")


def field_table() -> str:
    """The fields of a record as a Markdown table, from `Decision` itself (see docs/journal.md)."""
    lines = ["| field | type | meaning | example |", "|---|---|---|---|"]
    for item in fields(Decision):
        kind = str(item.type).replace("|", "\\|")
        meta = item.metadata
        lines.append(f"| `{item.name}` | `{kind}` | {meta['doc']} | `{meta['example']}` |")
    return "\n".join(lines)


def printable(text: object, limit: int = MAX_TEXT) -> str:
    r"""`text` with what could harm a terminal or a log made visible, and cut to `limit`.

    >>> printable("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    try:
        plain = text if type(text) is str else str(text)
    except Exception as error:  # someone else's __str__: the journal must not fall over it
        plain = f"<unprintable {type(text).__name__}: {type(error).__name__}>"
    # Cut before escaping too: a hostile gigabyte should not be walked character by character.
    over = max(0, len(plain) - limit)
    plain = _UNSAFE.sub(_visible, plain[:limit])
    if not over and len(plain) <= limit:
        return plain
    return plain[: max(0, limit - 1)] + "…"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return _SHORT.get(match[0], f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def numbers(values: Mapping[str, Any]) -> Mapping[str, float]:
    """A read-only copy with every value a float: NaN for what is no number."""
    pairs = list(values.items())[:MAX_ENTRIES]
    return MappingProxyType({printable(k, 100): _number(v) for k, v in pairs})


def plain(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy made of JSON values only, escaped and capped in depth, count and length."""
    return cast("Mapping[str, Any]", _plain(values, MAX_DEPTH))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value) if abs(int(value)) < 2**63 else float(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Mapping) and depth > 0:
        pairs = list(value.items())[:MAX_ENTRIES]
        return MappingProxyType({printable(k, 100): _plain(v, depth - 1) for k, v in pairs})
    if isinstance(value, (list, tuple, set, frozenset)) and depth > 0:
        return tuple(_plain(v, depth - 1) for v in list(value)[:MAX_ENTRIES])
    return printable(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_jsonable(v) for v in value]
    return value


def _typed(name: str, value: Any) -> Any:
    """`value` as the field `name` of a decision holds it."""
    if name in _TEXTS and isinstance(value, str):
        return printable(value)
    if name == "seq" and isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if name == "uptime_s" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if name == "applied" and isinstance(value, bool):
        return value
    if name in _VALUES and isinstance(value, Mapping):
        return plain(value)
    if name in _NUMBERS and isinstance(value, Mapping):
        return MappingProxyType({printable(k, 100): _stored(name, v) for k, v in value.items()})
    raise RecordError(f"{name} has the wrong type, {type(value).__name__}")


def _stored(name: str, value: Any) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise RecordError(f"{name} holds {printable(value, 40)!r}, which is no number")


def _check_version(found: Any) -> None:
    if type(found) is int and found > SCHEMA_VERSION:
        raise NewerRecordError(
            f"schema version {found} is newer than {SCHEMA_VERSION}; use the version of evolve "
            "that wrote it, or a newer one"
        )
    if type(found) is not int or found != SCHEMA_VERSION:
        raise RecordError(f"schema version must be {SCHEMA_VERSION}, got {printable(found, 40)}")
