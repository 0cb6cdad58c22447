"""Errors that can occur while serving, as one tree.

    EvolveError
    ├── DeadlineExceeded   (also TimeoutError)   refused: the deadline can no longer be met
    ├── QueueFull          (also a DeadlineExceeded)
    ├── RuntimeClosed      (also RuntimeError)   submitted after close()
    ├── ConfigError        (also ValueError)     a setting breaks its rule (evolve.config)
    ├── JournalError       the journal's file can't be used (evolve.journal.file)
    ├── PlotError          a journal can't be drawn (evolve.journal.plot)
    └── PlanFault          a plan or its worker failed; never reaches the caller
        ├── PlanDeclined   the batch is outside what the plan was made for
        ├── PlanLost       its files are gone from the cache, or changed
        ├── PlanWrong      the watch found an answer of it wrong
        ├── QualityLow     the sub-network it runs agrees too little with the original
        ├── WorkerCrashed  the worker process is gone
        └── WorkerHung     no answer within `workers.hang_timeout_s`

An error that the user's own model raises is passed on unchanged.
"""

from __future__ import annotations

import signal

__all__ = [
    "DeadlineExceeded",
    "EvolveError",
    "PlanDeclined",
    "PlanFault",
    "PlanLost",
    "PlanWrong",
    "QualityLow",
    "QueueFull",
    "RuntimeClosed",
    "WorkerCrashed",
    "WorkerHung",
]


class EvolveError(Exception):
    """Base of everything that evolve itself raises while serving."""


class DeadlineExceeded(EvolveError, TimeoutError):
    """The request was refused early: its deadline can no longer be met."""


class QueueFull(DeadlineExceeded):
    """The request was refused on arrival: `queue_limit` requests already wait."""


class RuntimeClosed(EvolveError, RuntimeError):
    """The runtime was closed; wrap the model again to serve it."""


class PlanFault(EvolveError):
    """A plan raised or its worker failed. The original model answers instead."""


class PlanDeclined(PlanFault):
    """The plan says of itself that the batch's numbers are beyond what it can hold."""


class PlanLost(PlanFault):
    """A plan can't be loaded any more, since its files are gone from the cache, or changed."""


class PlanWrong(PlanFault):
    """An answer that a plan gave is not the original's (`evolve.watch`)."""


class QualityLow(PlanFault):
    """The sub-network that a plan runs agrees less with the original than the user asks."""


class WorkerCrashed(PlanFault):
    """The worker process ended while it held a batch."""

    def __init__(self, worker: str, returncode: int | None) -> None:
        super().__init__(f"worker {worker} ended with status {returncode}")
        self.returncode = returncode

    @property
    def from_outside(self) -> bool:
        """Whether somebody killed it: a person, a supervisor, the kernel short of memory."""
        return self.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)


class WorkerHung(PlanFault):
    """The worker gave no answer in time and was killed. ``stopped``: somebody had stopped it."""

    def __init__(self, message: str, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.stopped = stopped

    @property
    def from_outside(self) -> bool:
        """Whether it was not the plan that kept it from answering."""
        return self.stopped
