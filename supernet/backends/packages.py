"""AOTInductor's packages on disk: unpacked once, when they are built.

Torch unpacks a package that is a file into the temporary directory at every load, once for each
model in it, and leaves that behind where the process is killed. From a folder it loads in place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

__all__ = ["load_package", "unpack"]


def load_package(package: Path, name: str = "model") -> Callable[[list[Any]], Any]:
    """The model called ``name`` in a package as a function of a list of inputs, which it empties.

    ``package`` is a file or what ``unpack`` made of it. Torch's loader in C++ is private:
    ``AttributeError`` or ``TypeError`` where it is missing or has other arguments.
    """
    boxed: Callable[[list[Any]], Any] = torch._C._aoti.AOTIModelPackageLoader(
        str(package), name, True, 1, -1
    ).boxed_run
    return boxed


def unpack(package: Path, name: str = "model") -> None:
    """Put a folder of the same name in a package's place; not where this torch takes none."""
    folder = package.with_name(f"{package.name}.unpacked")
    with ZipFile(package) as file:
        file.extractall(folder)
    try:
        load_package(folder, name)
    except (AttributeError, TypeError, RuntimeError):
        shutil.rmtree(folder)
        return
    package.unlink()
    folder.rename(package)
