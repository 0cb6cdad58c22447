"""Arrays over a local socket: one JSON header, then each array's raw bytes.

Nothing that arrives is executed or unpickled; a header that does not parse is a
`ValueError`, a peer that is gone is an `EOFError` or an `OSError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["receive", "send"]

Array = npt.NDArray[Any]


def send(connection: Connection, header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Sends `header` (JSON-able) and `arrays`, which may have any layout."""
    described = [[array.dtype.str, list(array.shape)] for array in arrays]
    connection.send_bytes(json.dumps({**header, "arrays": described}).encode())
    for array in arrays:
        if array.size:
            connection.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(connection: Connection) -> tuple[dict[str, Any], list[Array]]:
    """The next header and its arrays, each freshly allocated and writable."""
    header = json.loads(connection.recv_bytes())
    if not isinstance(header, dict):
        raise ValueError(f"header must be an object, got {type(header).__name__}")
    arrays = []
    for dtype, shape in header.pop("arrays", []):
        array = np.empty(math.prod(shape), np.dtype(dtype))
        if array.size:
            connection.recv_bytes_into(array.view(np.uint8).data)
        arrays.append(array.reshape(shape))
    return header, arrays
