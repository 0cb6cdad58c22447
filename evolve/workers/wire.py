"""A batch on its way between two processes: its arrays in shared memory, its header over a socket.

    sender                                   receiver
    SharedArrays.write(arrays) ─► memory
    send({..., "arrays": places}) ─► socket ─► receive
                                             SharedArrays.read(places) ─► views, not copies

A socket alone would carry a large answer in pieces of its buffer, with a change of process for
each. Nothing that arrives is executed or unpickled; a header that does not parse, or that points
outside the memory, is a `ValueError`; a peer that is gone is an `EOFError` or an `OSError`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SharedArrays", "memory_file", "receive", "send"]

Array = npt.NDArray[Any]
ArraySlot = Sequence[Any]
"""Where an array lies: [dtype, shape, offset in bytes]."""

_FIRST_BYTES = 1 << 20
_ALIGNMENT = 64  # a cache line; also what vector instructions like best


def send(connection: Connection, header: Mapping[str, Any]) -> None:
    """Sends `header`, which must be JSON-able."""
    connection.send_bytes(json.dumps(header).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """The next header."""
    header = json.loads(connection.recv_bytes())
    if not isinstance(header, dict):
        raise ValueError(f"header must be an object, got {type(header).__name__}")
    return header


def memory_file() -> int:
    """The descriptor of a file without a name, in memory where the system has such files.

    It is gone with the last process that holds it, however that ends.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("evolve-worker")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedArrays:
    """One side's view of a `memory_file`: one process writes, one reads, never both at a time.

    The writer makes it larger when a batch needs more; the reader follows. The descriptor is
    closed when nobody holds this object any more, not earlier: a thread may be writing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory: mmap.mmap | bytes = b""
        weakref.finalize(self, os.close, fd)

    def write(self, arrays: Sequence[Array]) -> list[ArraySlot]:
        """Copies `arrays`, of any layout, into the memory; returns where they lie."""
        places: list[ArraySlot] = []
        end = 0
        for array in arrays:
            places.append((array.dtype.str, array.shape, end))
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        if end > os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, max(_FIRST_BYTES, 2 * end))
        for array, view in zip(arrays, self.read(places), strict=True):
            view[...] = array
        return places

    def read(self, places: Sequence[ArraySlot]) -> list[Array]:
        """The arrays that lie at `places`: views, valid until the other side writes again."""
        size = os.fstat(self._fd).st_size
        if len(self._memory) != size:
            # The old mapping is let go when the last view of it is.
            self._memory = mmap.mmap(self._fd, size)
        return [_view(self._memory, *place) for place in places]


def _view(memory: mmap.mmap | bytes, dtype: str, shape: Sequence[int], offset: int) -> Array:
    count = math.prod(shape)
    if not count:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, count, offset).reshape(shape)
