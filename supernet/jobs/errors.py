"""Errors of work in a process of its own: how it may end without a result.

::

    JobError
    ├── JobFailed           for a reason that tells nothing of next time, such as a file's
    │   ├── JobRefused      it says no, and would again
    │   ├── JobRaised       an exception that it did not foresee; perhaps by chance
    │   ├── JobCrashed      it died of a signal of its own
    │   ├── JobOutOfMemory  it asked for more memory than there is
    │   ├── JobOutOfDisk    it found no room on the disk
    │   ├── JobOutOfTime    it took longer than it may
    │   └── BadRequest      its request cannot be read, or asks for what cannot be
    └── JobInterrupted      somebody ended it
        ├── JobKilled       with a signal from outside: by hand, or a system short of memory
        ├── JobCancelled    whoever waits for it, at once
        └── JobStopped      at a checkpoint, as it was asked to; it can go on from there

Work may raise any of them itself: it arrives as it is.
"""

from __future__ import annotations

from supernet.errors import SupernetError

__all__ = [
    "BadRequest",
    "JobCancelled",
    "JobCrashed",
    "JobError",
    "JobFailed",
    "JobInterrupted",
    "JobKilled",
    "JobOutOfDisk",
    "JobOutOfMemory",
    "JobOutOfTime",
    "JobRaised",
    "JobRefused",
    "JobStopped",
    "named",
]


class JobError(SupernetError):
    """Work in a process of its own ended without a result."""


class JobFailed(JobError):
    """It ended by itself; of next time that tells nothing, unless it is one of those below."""


class JobRefused(JobFailed):
    """It says no: asked the same again, it would say the same."""


class JobRaised(JobFailed):
    """An exception that it did not foresee; perhaps by chance."""


class JobCrashed(JobFailed):
    """It died of a signal of its own, such as SIGSEGV."""


class JobOutOfMemory(JobFailed):
    """It asked for more memory than there is, of the host or of a GPU."""


class JobOutOfDisk(JobFailed):
    """It found no room on the disk."""


class JobOutOfTime(JobFailed):
    """It took longer than its budget."""


class BadRequest(JobFailed):
    """Its request cannot be read, or asks for what cannot be."""


class JobInterrupted(JobError):
    """Somebody ended it."""


class JobKilled(JobInterrupted):
    """A signal from outside ended it: by hand, or a system short of memory."""


class JobCancelled(JobInterrupted):
    """Whoever waited for it wants it no more."""


class JobStopped(JobInterrupted):
    """It stopped at a checkpoint, as it was asked to, and can go on from there."""


def named(name: str) -> type[JobError]:
    """The error of that name; `JobFailed` for one that is not known here.

    >>> named("JobStopped")
    <class 'supernet.jobs.errors.JobStopped'>
    """
    found = globals().get(name) if name in __all__ else None
    return found if isinstance(found, type) and issubclass(found, JobError) else JobFailed
