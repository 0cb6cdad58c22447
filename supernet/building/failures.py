"""Failures of a build on their way from its process to whoever asked for it.

What a failure tells of next time decides what is kept of it: a `FinalFailure` is final, a `Mistake`
may be chance, any other `BuildFailed` (a file's, an operator that is not defined, out of memory or
of time) tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from supernet.errors import BuildFailed, BuildInterrupted, CacheFull, OperatorMissing
from supernet.jobs.errors import (
    JobCrashed,
    JobError,
    JobFailed,
    JobInterrupted,
    JobOutOfDisk,
    JobRaised,
    JobRefused,
)

__all__ = ["FinalFailure", "Mistake", "as_build_errors", "as_job_errors"]


class FinalFailure(BuildFailed):
    """A failure that would be the same next time."""


class Mistake(BuildFailed):
    """An engine's own exception."""


@contextmanager
def as_job_errors() -> Iterator[None]:
    """Within the build process: what a build says no with, as the harness tells it on."""
    try:
        yield
    except OperatorMissing as error:
        raise JobFailed(str(error)) from error
    except BuildFailed as error:
        raise JobRefused(str(error)) from error


@contextmanager
def as_build_errors() -> Iterator[None]:
    """Where a build process is waited for: how it ended, in the words of `supernet.errors`."""
    try:
        yield
    except JobInterrupted as error:
        raise BuildInterrupted(str(error)) from error
    except JobOutOfDisk as error:
        raise CacheFull(str(error)) from error
    except (JobRefused, JobCrashed) as error:
        raise FinalFailure(str(error)) from error
    except JobRaised as error:
        raise Mistake(str(error)) from error
    except JobError as error:
        raise BuildFailed(str(error)) from error
