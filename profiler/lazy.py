"""Public names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(
    package: str, names_of: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` for the names that each of its modules gives.

    ``names_of``: by module, relative to ``package``, its names with spaces between.

    >>> getattr_, dir_ = lazy_exports("profiler", {"shapes": "Shape ShapeGrid"})
    >>> dir_(), getattr_("Shape")(4, 32)
    (['Shape', 'ShapeGrid'], Shape(rows=4, length=32))
    """
    homes = {name: module for module, names in names_of.items() for name in names.split()}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up is a plain attribute
        return value

    return getattr_, lambda: sorted(homes)
