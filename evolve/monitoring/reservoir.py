"""A sample of live inputs, in memory alone, for whoever learns from what really comes.

    lane ── a batch was answered ─► drawn? ── seldom ─► copied, finite ─► in the place of another
                                      └─ mostly: nothing

Vitter's algorithm R ("Random Sampling with a Reservoir", 1985) at first: each request seen so far
is in it equally likely. Once `HORIZONS` times as many came as it holds, it is Aggarwal's biased
reservoir ("On Biased Reservoir Sampling in the Presence of Stream Evolution", 2006, section 3): a
request is kept with a fixed chance, so that after as many more all but 1/e of those that it held
have made room.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Inputs", "Reservoir", "handed_over"]

Inputs = tuple["Tensor", ...]
"""One request's flat input leaves, on the CPU."""
HORIZONS = 64
"""One request in so many is copied once it has been full for long."""
_KINDS = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip
"""What safetensors calls the types of tensors."""


class Reservoir:
    """At most so many requests and so many MiB of inputs. Thread-safe.

    Args:
        requests: That are kept at most.
        mib: That they take at most; one that is larger by itself is left out.
        rng: Draws.

    >>> import torch
    >>> reservoir = Reservoir(8, 1.0, random.Random(0))
    >>> for value in range(100):
    ...     reservoir.offer([[torch.full((1, 2), float(value))]])
    >>> len(reservoir), reservoir.seen
    (8, 100)
    """

    def __init__(self, requests: int, mib: float, rng: random.Random) -> None:
        if requests < 1:
            raise ValueError(f"requests must be at least 1, got {requests}")
        if not mib > 0:
            raise ValueError(f"mib must be above 0, got {mib}")
        self._most, self._most_bytes, self._rng = requests, int(mib * 2**20), rng
        self._lock = threading.Lock()
        self._kept: list[Inputs] = []
        self._bytes = 0
        self._is_full = False
        self.seen = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def mib(self) -> float:
        """What its inputs take."""
        return self._bytes / 2**20

    def offer(self, requests: Sequence[Sequence[Tensor]]) -> None:
        """The input leaves of a batch that was answered; the few that are drawn are copied, before
        their callers may change them. Never raises: one that can't be copied is left out."""
        with self._lock:
            drawn = [leaves for leaves in requests if self._draw()]
        for leaves in drawn:
            with contextlib.suppress(Exception):  # memory is short, a device is lost
                if (copy := _copied(leaves, self._most_bytes)) is not None:
                    self._keep(copy)

    def snapshot(self) -> tuple[Inputs, ...]:
        """What is kept now; nobody changes it."""
        with self._lock:
            return tuple(self._kept)

    def _draw(self) -> bool:
        """Whether to keep the next request; the lock is held."""
        self.seen += 1
        if not self._is_full:
            return True
        share = max(len(self._kept) / self.seen, 1.0 / HORIZONS)
        return self._rng.random() < share

    def _keep(self, inputs: Inputs) -> None:
        """Puts them in the place of as many others, drawn by chance, as they need the room of."""
        size = _bytes(inputs)
        with self._lock:
            while self._kept and (
                len(self._kept) >= self._most or self._bytes + size > self._most_bytes
            ):
                self._is_full = True
                at = self._rng.randrange(len(self._kept))
                self._bytes -= _bytes(self._kept[at])
                self._kept[at] = self._kept[-1]
                self._kept.pop()
            self._kept.append(inputs)
            self._bytes += size
            self._is_full = self._is_full or len(self._kept) >= self._most


def _copied(leaves: Sequence[Tensor], most_bytes: int) -> Inputs | None:
    """Copies on the CPU; None where a number of them is none, or they are too large."""
    if _bytes(leaves) > most_bytes:
        return None
    copies = tuple(leaf.detach().to("cpu", copy=True).contiguous() for leaf in leaves)
    finite = all(
        bool(leaf.isfinite().all())
        for leaf in copies
        if leaf.is_floating_point() or leaf.is_complex()
    )
    return copies if finite else None


def _bytes(leaves: Sequence[Tensor]) -> int:
    return sum(leaf.nbytes for leaf in leaves)


@contextlib.contextmanager
def handed_over(inputs: Sequence[Inputs]) -> Iterator[str]:
    """The path of a safetensors file of inputs, ``"EXAMPLE.LEAF"`` by ``"EXAMPLE.LEAF"``, for
    another process of this user to read within the block.

    It lies in memory (memfd_create(2), on Linux): what was asked never comes to a disk.
    """
    tensors = {
        f"{example}.{leaf}": tensor
        for example, leaves in enumerate(inputs)
        for leaf, tensor in enumerate(leaves)
    }
    descriptor = os.memfd_create("evolve-inputs")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            _write(tensors, file)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _write(tensors: Mapping[str, Tensor], file: BinaryIO) -> None:
    """In the format of safetensors, one tensor after the other: its own writer makes all of it at
    once, and no other thread gets to run Python meanwhile."""
    import torch

    header, end = {}, 0
    for name, tensor in tensors.items():
        kind = _KINDS[str(tensor.dtype).removeprefix("torch.")]
        offsets = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    file.write(len(said).to_bytes(8, "little") + said)
    for tensor in tensors.values():
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
