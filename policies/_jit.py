"""One typed door to numba: compiled once per machine, cached on disk, never stale.

numba keeps its cache in the package's `__pycache__`, or, where that folder cannot be written, in
the user's own cache folder. Three things it does not do are added here:

- A cached function that calls another one keeps the old code of the callee after the callee's
  file changed. The cache is therefore stamped with a digest of every compiled source file.
- A damaged or full disk must not stop serving: the function is then compiled in memory.
- Where no cache folder exists at all numba refuses to decorate: again compiled in memory.

The two private attributes of numba that this needs are looked up, not assumed: without them
nothing is cached.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_COMPILED = ("_tables.py", "_triage.py", "_batch.py", "compiled.py", "params.py")


class _Guarded:
    """A cache file whose faults read as "not cached"."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def load(self, key: Any) -> Any:
        try:
            return self._inner.load(key)
        except Exception:  # a damaged pickle may raise anything
            return None

    def save(self, key: Any, data: Any) -> None:
        try:
            self._inner.save(key, data)
        except Exception:  # full disk, damaged index: compiled in memory is compiled enough
            self.flush()

    def flush(self) -> None:
        try:
            self._inner.flush()
        except OSError:
            return


def jit(function: F) -> F:
    """Compile `function` in nopython mode, keeping its type for the type checker.

    Division by zero follows IEEE rules (inf, NaN) as in numpy, never an exception: a cost
    table may hold infinities. The GIL is kept: these calls last microseconds, and taking the
    lock back under contention would cost up to a whole switch interval.
    """
    plain = numba.njit(error_model="numpy")(function)
    try:
        cached: Any = numba.njit(cache=True, error_model="numpy")(function)
        file = cached._cache._cache_file
        file._source_stamp = (file._source_stamp, _digest(inspect.getfile(function)))
        cached._cache._cache_file = _Guarded(file)
    except (RuntimeError, AttributeError, OSError):
        return cast(F, plain)
    return cast(F, cached)


@lru_cache(maxsize=16)
def _digest(source: str) -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (*(here / name for name in _COMPILED), Path(source)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
