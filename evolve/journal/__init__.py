"""Every decision on record: kept, written to a file, read, queried, explained and drawn."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolve.journal.file import JournalError
    from evolve.journal.journal import Journal
    from evolve.journal.reader import Damage, Verdict, read, verify

_HOMES = {
    "Damage": "reader",
    "Journal": "journal",
    "JournalError": "file",
    "Verdict": "reader",
    "read": "reader",
    "verify": "reader",
}

__all__ = ["Damage", "Journal", "JournalError", "Verdict", "read", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
