"""A call of the user's becomes a request: taken apart, and held against what was captured."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves

from evolve.data_plane.ambience import Ambience
from evolve.data_plane.request_queue import Request
from evolve.journal.journal import JournalError
from supernet.errors import OutsideCapture
from supernet.plans import ORIGINAL

if TYPE_CHECKING:
    from evolve.data_plane.lane import Serving
    from evolve.journal.journal import Journal
    from evolve.slo import SLO

__all__ = ["Reception"]

MAX_REASONS = 100


class Reception:
    """Makes requests, and says once for each reason that the original must answer some."""

    def __init__(self, slo: SLO, journal: Journal, clock: Callable[[], float]) -> None:
        self._slo, self._journal, self._clock = slo, journal, clock
        self._alone = itertools.count(1)
        self._said: set[str] = set()

    def request(
        self, serving: Serving, args: tuple[Any, ...], kwargs: dict[str, Any], *, refusable: bool
    ) -> Request:
        """This call, made now on the caller's own thread."""
        return self._request(serving, args, kwargs, Ambience.of_caller(), refusable)

    def again(self, serving: Serving, request: Request) -> Request:
        """The same call, future and deadline as `serving` sees them; on any thread."""
        other = self._request(
            serving, request.args, request.kwargs, request.ambience, request.refusable
        )
        return dataclasses.replace(
            other, arrived_ms=request.arrived_ms, deadline_ms=request.deadline_ms
        ).promised(request.future)

    def _request(
        self,
        serving: Serving,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ambience: Ambience | None,
        refusable: bool,
    ) -> Request:
        now_ms = self._clock() * 1e3
        deadline_ms = self._slo.deadline_ms(now_ms)
        capture = serving.capture
        try:
            if ambience is not None and (why := ambience.obstacle(capture.signature.device)):
                raise OutsideCapture(why)
            flat = capture.flatten(args, kwargs)
            capture.check(flat.leaves)
        except OutsideCapture as reason:
            self._say_outside(str(reason))
            return Request(
                args, kwargs, [], 1, 1, 0, next(self._alone), now_ms, deadline_ms,
                refusable=refusable, outside=str(reason), ambience=ambience,
                size=_size((args, kwargs)),
            )  # fmt: skip
        # Lengths that can't be padded share a batch only with their equals.
        group = serving.licence.now.group(flat.length, next(self._alone))
        bucket = capture.grid.bucket(flat.length)
        return Request(
            args, kwargs, flat.leaves, flat.rows, flat.length, bucket, group, now_ms, deadline_ms,
            refusable=refusable, ambience=ambience,
        )  # fmt: skip

    def _say_outside(self, reason: str) -> None:
        if reason in self._said or len(self._said) >= MAX_REASONS:
            return
        self._said.add(reason)
        with contextlib.suppress(JournalError):  # the runtime is closed this very moment
            self._journal.append(
                "request",
                ORIGINAL,
                reason=f"outside the capture, answered by the original: {reason}",
            )


def _size(call: Any) -> int:
    """How many numbers there are in the tensors of a call."""
    return sum(leaf.numel() for leaf in tree_leaves(call) if isinstance(leaf, torch.Tensor))
