"""A decision as one line: compact ASCII JSON that ends with the CRC-32 of what stands before it.

To check a line with other tools, replace `,"crc":"xxxxxxxx"}` at its end by `}` and take the
CRC-32 of the result: the bytes themselves are covered, so that any change to a line shows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evolve.journal.decision import NOTHING, Decision, RecordError, plain

__all__ = ["MAX_RECORD_BYTES", "decode", "encode", "fitted"]

MAX_RECORD_BYTES = 32_768
_CRC_PREFIX = b',"crc":"'
_CRC_SUFFIX_BYTES = len(_CRC_PREFIX) + 8 + len(b'"}')


def encode(decision: Decision) -> bytes:
    """The line of a decision, newline included."""
    body = _dump(decision.to_json())
    return body[:-1] + _CRC_PREFIX + b'%08x"}\n' % zlib.crc32(body)


def fitted(decision: Decision) -> tuple[Decision, bytes]:
    """The decision and its line, its mappings left out (and that said) where it is too large."""
    line = encode(decision)
    if len(line) <= MAX_RECORD_BYTES:
        return decision, line
    note = f"left out: the record had {len(line)} bytes, the limit is {MAX_RECORD_BYTES}"
    small = replace(
        decision,
        seen=NOTHING,
        scores=NOTHING,
        before=plain({"note": note}),
        after=plain({"note": note}),
    )
    return small, encode(small)


def _dump(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def decode(line: bytes) -> Decision:
    """The decision in one line (with its newline). Raises `RecordError`, never guesses."""
    if not line.endswith(b"\n"):
        raise RecordError("the record is incomplete")
    text = line[:-1]
    body, tail = text[:-_CRC_SUFFIX_BYTES] + b"}", text[-_CRC_SUFFIX_BYTES:]
    if not tail.startswith(_CRC_PREFIX):
        raise RecordError("the record has no CRC at its end")
    if tail != _CRC_PREFIX + b'%08x"}' % zlib.crc32(body):
        raise RecordError("the CRC does not match")
    try:
        row = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RecordError("the record is no JSON") from error
    if not isinstance(row, dict):
        raise RecordError("the record is no JSON object")
    return Decision.from_json(row)
