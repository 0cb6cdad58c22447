"""Errors that can occur between a model and its plans.

::

    SupernetError
    ├── OutsideCapture      a call the plans were not made for: the original answers it
    ├── Uncapturable        a value or a model that no plan can stand for
    │   └── NeedsGradients  a forward that fails under no_grad: the original answers with them
    ├── OutsideRange        a batch whose numbers a plan cannot hold (an ArithmeticError too)
    ├── WrongArgument       an example or a demand that the model refuses (a ValueError too)
    ├── BuildFailed         the backend could not build, load or run the plan
    │   ├── OperatorMissing an operator of some library is not defined in the building process
    │   └── ArtifactBroken  a plan's files are gone from the cache, or not as they were built
    ├── CheckpointFailed    a training cannot be written to disk; what it has reached is with it
    ├── BuildInterrupted    the build process was killed from outside
    ├── JobError            any work in a process of its own: see `supernet.jobs.errors`
    └── CacheError
        ├── CacheFull       no room left on the disk; nothing half-written is left behind
        └── CacheUntrusted  the folder belongs to, or can be written by, somebody else
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArtifactBroken",
    "BuildFailed",
    "BuildInterrupted",
    "CacheError",
    "CacheFull",
    "CacheUntrusted",
    "CheckpointFailed",
    "NeedsGradients",
    "OperatorMissing",
    "OutsideCapture",
    "OutsideRange",
    "SupernetError",
    "Uncapturable",
    "WrongArgument",
]


class SupernetError(Exception):
    """Base of every error this package raises on purpose."""


class OutsideCapture(SupernetError):
    """The call differs from what was captured; ``str(error)`` says in which way."""


class Uncapturable(SupernetError):
    """No plan can stand for this model or value; ``str(error)`` is the one-line reason."""


class NeedsGradients(Uncapturable):
    """The forward takes gradients and relies on its caller to have them switched on."""


class OutsideRange(SupernetError, ArithmeticError):
    """A plan declines a batch: numbers inside it leave the range that it was made for."""


class WrongArgument(SupernetError, ValueError):
    """An example contradicts the others, or the model refuses it, or what is demanded of it."""


class BuildFailed(SupernetError):
    """A backend could not build, load or run a plan."""


class OperatorMissing(BuildFailed):
    """The program calls an operator that another process cannot define."""


class ArtifactBroken(BuildFailed):
    """A plan's files are not in the cache as they were built: it must be built again."""


class BuildInterrupted(SupernetError):
    """The build process was killed by someone else (out of memory, or by hand)."""


class CheckpointFailed(SupernetError):
    """A training cannot be written to disk, which is full, most likely.

    Training ends there; ``result`` is what it has come to, judged as at any other end. The
    checkpoint before is still whole.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class CacheError(SupernetError):
    """The artifact cache could not do what was asked."""


class CacheFull(CacheError):
    """The disk has no room for an artifact."""


class CacheUntrusted(CacheError):
    """The cache folder cannot be trusted with code that will be run."""
