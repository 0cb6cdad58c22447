"""Every decision on record: kept, written to a file, read, queried, explained and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from evolve.journal.file import JournalError
    from evolve.journal.journal import Journal
    from evolve.journal.reader import Damage, Verdict, read, verify
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "file": "JournalError",
            "journal": "Journal",
            "reader": "Damage Verdict read verify",
        },
    )

__all__ = ["Damage", "Journal", "JournalError", "Verdict", "read", "verify"]
