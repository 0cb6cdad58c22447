"""One typed door to numba: compiled once per machine, cached on disk, never stale.

numba keeps its cache in the package's `__pycache__`. Four things it does not do are added here:

- A cached function that calls another one keeps the old code of the callee after the callee's
  file changed. The cache is therefore stamped with a digest of the compiled files around it.
- A damaged or full disk must not stop serving: the function is then compiled in memory.
- Where `__pycache__` cannot be written the cache goes where `profiler.places` says: numba would go
  by the home folder alone, and where there is none make one called `~` in the working folder.
- Where no cache folder exists at all numba refuses to decorate: again compiled in memory.

The two private attributes of numba that this needs are looked up, not assumed: without them
nothing is cached.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from profiler.places import obstacle, storage_folder

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_IMPORT = re.compile(rb"^from [\w.]*?(\w+) import", re.MULTILINE)


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
    lock back under contention would cost up to a whole switch interval. `jit_long` lets go of it.
    """
    return _compile(function)


def jit_long(function: F) -> F:
    """As `jit`, for calls of a millisecond and more: other threads run meanwhile."""
    return _compile(function, nogil=True)


def jit_inlined(function: F) -> F:
    """As `jit`, for a part that has one caller, or is tiny: it is compiled into its callers.

    It may be given tuples of many arrays: a call that is none copies nothing and counts no
    reference. Elsewhere each of their members is an argument of its own.
    """
    return _compile(function, inline="always")


def _compile(function: F, **options: Any) -> F:
    plain = numba.njit(error_model="numpy", **options)(function)
    try:
        with _kept(inspect.getfile(function)):
            cached: Any = numba.njit(cache=True, error_model="numpy", **options)(function)
        file = cached._cache._cache_file
        file._source_stamp = (file._source_stamp, _digest(inspect.getfile(function)))
        cached._cache._cache_file = _Guarded(file)
    except (RuntimeError, AttributeError, OSError):
        return cast(F, plain)
    return cast(F, cached)


@contextlib.contextmanager
def _kept(source: str) -> Iterator[None]:
    """Has numba keep what it compiles of `source` in a folder that can be written; or `OSError`."""
    settings: Any = config
    before, beside = settings.CACHE_DIR, Path(source).parent / "__pycache__"
    if not before and obstacle(beside.absolute()) is not None:
        settings.CACHE_DIR = str(_folder())
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def _folder() -> Path:
    place = storage_folder()
    if place.folder is not None:
        place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if storage_folder() == place:  # nobody else was faster: what lies there is executed
            return place.folder / "numba"
    raise OSError(f"no folder to keep compiled functions in: {place.why}")


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.BaseTuple):
        parts = [
            _uncounted(context, builder, part, builder.extract_value(value, i))
            for i, part in enumerate(cast(Any, kind))
        ]
        return context.make_tuple(builder, kind, parts)
    if not isinstance(kind, types.Array):
        return value
    null: Callable[[Any], Any] = cgutils.get_null_value
    view = context.make_array(kind)(context, builder, value)
    view.meminfo, view.parent = null(view.meminfo.type), null(view.parent.type)
    return view._getvalue()


def _borrowed(typing_context: Any, kind: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _uncounted(context, builder, signature.return_type, args[0])

    return kind(kind), code


borrowed = cast(Callable[[T], T], intrinsic(_borrowed))
"""In compiled code: the same array, or tuple of arrays and numbers, uncounted; whoever calls keeps
it alive.

numba counts a reference at every call that is given an array, atomically; in a loop of many small
functions that was half of the time.
"""


@lru_cache(maxsize=16)
def _digest(source: str) -> str:
    """Of the compiled files here and in the folder of `source`, and of those they import from
    there: what numba finds in a module, a constant above all, is compiled in."""
    folders = dict.fromkeys((Path(__file__).parent, Path(source).parent))
    files = {path: path.read_bytes() for one in folders for path in sorted(one.glob("*.py"))}
    compiled = {path for path, text in files.items() if b"\n@jit" in text or path == Path(source)}
    imported = {name for path in compiled for name in _IMPORT.findall(files[path])}
    digest = hashlib.sha256()
    for path, text in files.items():
        if path in compiled or path.stem.encode() in imported:
            digest.update(text)
    return digest.hexdigest()
