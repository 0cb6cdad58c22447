"""Our own kernels in C++: compiled where plans are built, stored with a plan, called as plain C.

They take no header of torch, so that they compile in two seconds, once for each machine. Every plan
of a process brings the same code; the first to be loaded is used by all.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet.errors import BuildFailed

__all__ = ["SOURCES", "compiler", "kernels", "load", "prepare", "write"]

_NAMES = ("attention.cpp", "product.cpp", "winograd.cpp")
SOURCES = tuple(Path(__file__).with_name(name) for name in _NAMES)
_LIBRARY = "kernels.so"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared",
          "-fPIC")  # fmt: skip
_COMPILE_S = 120.0

_POINTER, _NUMBER, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_TAKEN_AND_GIVEN: dict[str, tuple[list[Any], Any]] = {
    "evolve_attention": (
        [*[_POINTER] * 5, *[_NUMBER] * 5, _POINTER, _FLOAT, _INT, _POINTER], _INT,
    ),
    "evolve_attention_scratch": ([_NUMBER] * 2, _NUMBER),
    "evolve_product": (
        [*[_POINTER] * 2, _INT, *[_POINTER] * 2, *[_NUMBER] * 3, _INT, _FLOAT, _FLOAT], _INT,
    ),
    "evolve_product_panel": ([_INT], _NUMBER),
    "evolve_winograd": (
        [*[_POINTER] * 5, *[_NUMBER] * 6, _FLOAT, _FLOAT, _POINTER], _INT,
    ),
    "evolve_winograd_panel": ([_NUMBER], _NUMBER),
    "evolve_winograd_scratch": ([_NUMBER] * 2, _NUMBER),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Loaded:
    path: Path
    library: ctypes.CDLL


_loaded: list[_Loaded] = []
"""At most one."""


def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, if this process has any."""
    return _loaded[0].library if _loaded else None


def compiler() -> str | None:
    """The C++ compiler to use: `CXX` if set, else g++, else clang++; None where there is none."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def prepare(kept: Callable[[str, Callable[[Path], None]], Path]) -> str | None:
    """Load the kernels, compiled if they never were; why that can't be, None if it was done.

    `kept(key, make)` gives the folder that `make` filled when it was first asked for by this key.
    It must stay while the process may still `write` what it loaded.
    """
    if _loaded:
        return None
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"they are written for x86-64, not {platform.machine()}"
    if (cxx := compiler()) is None:
        return "no C++ compiler is on the PATH"
    try:
        folder = kept(_key(cxx), lambda folder: _compile(cxx, folder))
    except BuildFailed as error:
        return str(error)
    try:
        load(folder)
    except OSError as error:  # a cache from which nothing may be executed, say
        return f"they cannot be loaded: {error}"
    return None


def _key(cxx: str) -> str:
    """Of the sources and of all that the compiler makes of them here: its version, its flags, the
    instructions that this processor has."""
    about = _run([cxx, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(f"{cxx} {_FLAGS} {about}".encode())
    for source in (*SOURCES, *sorted(SOURCES[0].parent.glob("*.h"))):
        key.update(source.read_bytes())
    return key.hexdigest()[:32]


def _compile(cxx: str, folder: Path) -> None:
    _run([cxx, *_FLAGS, *map(str, SOURCES), "-o", str(folder / _LIBRARY)])


def _run(command: list[str]) -> str:
    """What it printed. Raises `BuildFailed` if it can't be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        said = next(iter(done.stderr.splitlines()), done.returncode)
        raise BuildFailed(f"{command[0]} failed: {said}")
    return done.stdout


def load(folder: Path) -> None:
    """Use the kernels that `folder` holds. Raises `OSError` where they are not for this machine."""
    if _loaded:
        return
    library = ctypes.CDLL(str(folder / _LIBRARY))
    for name, (taken, given) in _TAKEN_AND_GIVEN.items():
        function = getattr(library, name)
        function.argtypes, function.restype = taken, given
    _loaded.append(_Loaded(folder / _LIBRARY, library))


def write(folder: Path) -> None:
    """Put the kernels that this process loaded into `folder`, where `load` finds them."""
    shutil.copyfile(_loaded[0].path, folder / _LIBRARY)
