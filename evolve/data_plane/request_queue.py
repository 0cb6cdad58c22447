"""Requests that wait, beside the columns that the compiled rule reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolve.data_plane.promise import Promise
from policies.rule import Waiting

if TYPE_CHECKING:
    from evolve.data_plane.ambience import Ambience

__all__ = ["Request", "RequestQueue"]


@dataclass(slots=True, eq=False)
class Request:
    """One call of the user's, on its way to an answer.

    `leaves` are its tensors in signature order, or empty when the call does not fit the
    capture; `outside` then says why, the original model answers it alone, and `size` is how many
    numbers it holds. `ambience` is what
    the caller's thread had in force beyond the usual.
    Times are milliseconds on the runtime's clock.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Any]
    rows: int
    length: int
    bucket: int
    group: int
    arrived_ms: float
    deadline_ms: float
    refusable: bool
    outside: str | None = None
    ambience: Ambience | None = None
    size: int = 0
    _future: Promise | None = field(default=None, init=False, repr=False)

    @property
    def future(self) -> Promise:
        """Made when first asked for, by who sends the request: one who computes needs none."""
        if self._future is None:
            self._future = Promise()
        return self._future

    def promised(self, future: Promise) -> Request:
        """This request with `future` as its own: it takes the place of one that has it."""
        self._future = future
        return self


class RequestQueue:
    """Waiting requests in order of arrival. Not thread-safe: the scheduler holds the lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = Waiting()
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> Request:
        return self._requests[index]

    def append(self, request: Request, reserve_ms: float = 0.0) -> None:
        """Adds at the end, to be answered `reserve_ms` before its deadline; the caller has checked
        that `len(self) < limit`."""
        self.waiting.append(
            request.deadline_ms - reserve_ms,
            request.arrived_ms,
            request.bucket,
            rows=request.rows,
            group=request.group,
            refusable=request.refusable,
        )
        self._requests.append(request)

    def take(self, indices: Sequence[int]) -> list[Request]:
        """Takes the requests at `indices` out, in that order; those behind move up."""
        taken = [self._requests[i] for i in indices]
        gone = set(indices)
        self.waiting.remove(indices)
        self._requests = [r for i, r in enumerate(self._requests) if i not in gone]
        return taken
