"""Changes of the model and of plans' files, noted for who keeps what serves in step with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from evolve.data_plane.weights import Weights

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Changes"]


class Changes:
    """How often the model moved and files of plans were lost, counted since the start. Thread-safe.

    `noted` is notified of each and guards the counts; `moved_at_s` says when the model last moved,
    on `clock`, and `what` how.

    >>> from torch import nn
    >>> model = nn.Linear(2, 2)
    >>> changes = Changes(model)
    >>> model = model.train(False)
    >>> changes.check()
    >>> changes.moves, changes.what
    (1, 'the model went to eval mode')
    """

    def __init__(self, model: nn.Module, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.weights = Weights(model)
        self.noted = threading.Condition()
        self.moves = self.losses = 0
        self.what, self.moved_at_s = "", clock()

    def check(self) -> None:
        """Called in every tick: notes whether the model moved."""
        what = self.weights.moved()
        if what is None:
            return
        with self.noted:
            self.moves += 1
            self.what, self.moved_at_s = what, self._clock()
            self.noted.notify_all()

    def lost(self) -> None:
        """Called where a worker finds that files it is to load are gone."""
        with self.noted:
            self.losses += 1
            self.noted.notify_all()
