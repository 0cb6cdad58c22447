"""Built artifacts on disk: owner-only, checked by hash before use, whole or not there at all.

::

    ROOT/                     0700, ours, or it is refused
      captures/<graph hash>/  the exported program
      references/<key>/       its signature, batches with the original's answers, the grid
      onnx/<graph hash>/      the program as ONNX, shared by the engines that read it
      plans/<artifact key>/   what a backend built
      kernels/<key>/          our kernels, compiled for this machine
      evolution/<key>/        what a search for sub-networks goes on from; changed in place
      reports/<name>.json     what was measured
      .tmp-<pid>-<place>-…/   work under way; removed when its process is gone

Each folder carries ``manifest.json`` with the sha256 of every file, but those of ``evolution``,
whose files say by themselves whether they are whole. It is written aside, synced and renamed into
place, so that a reader never sees half of it. References that were not used of late are pruned, but
none that a process is using (`supernet.holds`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from supernet.errors import CacheError, CacheFull, CacheUntrusted
from supernet.holds import Hold, take_away
from supernet.manifest import broken, sync, unseal, write_manifest, write_sealed

__all__ = ["MEMO", "ArtifactCache"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MEMO = "memo-"  # begins the name of a report that is about no plan
FOREIGN_S = 86_400.0
_KINDS = ("captures", "evolution", "kernels", "onnx", "plans", "references", "reports")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE_ROOM = 1 << 20


class ArtifactCache:
    """Folders of files by kind and content key. Safe to share between processes of one user.

    ``on_discard(entry, reason)`` hears of every entry that was thrown away, and why.
    """

    def __init__(
        self, root: Path | str, on_discard: Callable[[str, str], None] | None = None
    ) -> None:
        self.root = Path(root).expanduser()
        self._on_discard = on_discard
        self._holds: dict[Path, Hold] = {}
        with self._writing():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._trust_root()
            for kind in _KINDS:
                (self.root / kind).mkdir(mode=0o700, exist_ok=True)
        self.sweep()

    def entry(self, kind: str, key: str) -> Path | None:
        """The folder of an entry, hashes checked just now; None if absent or thrown away."""
        folder = self._place(kind, key)
        if not os.path.lexists(folder):
            return None
        fault = broken(folder, key)
        if fault is None:
            return folder
        self._throw(folder, f"{kind}/{key}", fault)
        return None

    def held(self, kind: str, key: str) -> Path | None:
        """As `entry`; and no process's `prune` takes it while this object lives."""
        folder = self._place(kind, key)
        try:
            hold = Hold(folder)
            os.utime(folder)  # it is used now
        except FileNotFoundError:
            return None
        except OSError:  # a link, a file: `entry` throws it away
            return self.entry(kind, key)
        found = self.entry(kind, key)
        if found is not None:
            self._holds[folder] = hold
        return found

    def growing(self, kind: str, key: str) -> Path:
        """A folder that its users change in place, made where there is none; no process's `prune`
        takes it while this object lives."""
        folder = self._place(kind, key)
        while folder not in self._holds:
            with self._writing():
                folder.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # taken away this very moment
                self._holds[folder] = Hold(folder)
        os.utime(folder)
        return folder

    def prune(self, kind: str, prefix: str, keep: int) -> None:
        """Throw away the entries whose keys begin so, but for the ``keep`` that were used last
        (`held`) and those that some process uses at the moment."""
        used = {path: _used_at(path) for path in (self.root / kind).glob(f"{prefix}*")}
        latest_first = sorted(used, key=lambda path: used[path], reverse=True)
        for folder in latest_first[keep:]:
            with contextlib.suppress(CacheError, OSError), self.scratch() as stage:
                if take_away(folder, stage / "pruned") and self._on_discard is not None:
                    self._on_discard(f"{kind}/{folder.name}", f"{keep} others were used since")

    @contextlib.contextmanager
    def adding(self, kind: str, key: str) -> Iterator[Path]:
        """An empty folder to fill; at the end of the block it becomes the entry.

        Raises ``CacheFull`` when the disk has no room. Whatever goes wrong, no trace is left.
        """
        folder = self._place(kind, key)
        with self.scratch() as stage, self._writing():
            content = stage / "content"
            content.mkdir(mode=0o700)
            yield content
            write_manifest(content, key)
            self._move(content, folder, key)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the cache's disk, removed at the end of the block."""
        with self._writing():
            folder = Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-{_place()}-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self, kind: str, key: str, reason: str) -> None:
        """Throw an entry away."""
        folder = self._place(kind, key)
        if os.path.lexists(folder):
            self._throw(folder, f"{kind}/{key}", reason)

    def report(self, name: str) -> dict[str, Any] | None:
        """A stored report; None if absent, damaged or not only ours to write."""
        path = self._place("reports", f"{name}.json")
        if not os.path.lexists(path):
            return None
        try:
            record = unseal(path)
            if record.get("name") != name or not isinstance(record.get("report"), dict):
                raise ValueError("it is another report's")
            return dict(record["report"])
        except (OSError, ValueError) as error:
            self._throw(path, f"reports/{name}", str(error))
            return None

    def put_report(self, name: str, report: Mapping[str, Any]) -> None:
        """Store a JSON-able report, whole or not at all."""
        path = self._place("reports", f"{name}.json")
        with self.scratch() as stage, self._writing():
            written = stage / path.name
            write_sealed(written, {"name": name, "report": report})
            os.replace(written, path)
            sync(path.parent)

    def reports(self) -> Iterator[dict[str, Any]]:
        """Every readable report about a plan."""
        for path in sorted((self.root / "reports").glob("*.json")):
            report = None if path.stem.startswith(MEMO) else self.report(path.stem)
            if report is not None:
                yield report

    def sweep(self) -> None:
        """Remove what processes that are gone left behind.

        Where containers or hosts share the folder, nobody knows of another's processes: their work
        is taken for left behind when nothing was written to it for a day.
        """
        for path in self.root.glob(".tmp-*"):
            pid, _, place = path.name.removeprefix(".tmp-").partition("-")
            is_ours = pid.isdigit() and place.startswith(f"{_place()}-")
            if (not _runs(int(pid))) if is_ours else _is_older(path, FOREIGN_S):
                shutil.rmtree(path, ignore_errors=True)

    def _place(self, kind: str, key: str) -> Path:
        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {_KINDS}, got {kind!r}")
        if not _NAME.fullmatch(key) or key.startswith("."):
            raise ValueError(
                f"key must match {_NAME.pattern} and not begin with a dot, got {key!r}"
            )
        return self.root / kind / key

    def _move(self, content: Path, folder: Path, key: str) -> None:
        try:
            os.rename(content, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process was faster. Its entry has the same content key: keep it if whole.
            if self.entry(folder.parent.name, key) is None:
                os.rename(content, folder)
        sync(folder.parent)

    def _throw(self, path: Path, name: str, reason: str) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if self._on_discard is not None:
            self._on_discard(name, reason)
        if os.path.lexists(path):
            raise CacheError(f"cannot remove the untrusted cache entry {path}: {reason}")

    def _trust_root(self) -> None:
        status = os.stat(self.root)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise CacheUntrusted(
                f"cache folder must be a folder of this user, got {self.root} of user "
                f"{status.st_uid}; choose another one"
            )
        if status.st_mode & 0o022:
            for kind in _KINDS:
                for path in (self.root / kind).glob("*"):
                    self._throw(path, f"{kind}/{path.name}", "others could write to the cache")
        if status.st_mode & 0o077:
            os.chmod(self.root, 0o700)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._is_full(error):
                raise CacheFull(
                    f"no room left for {self.root}; free some, or choose another cache folder"
                ) from error
            raise

    def _is_full(self, error: Exception) -> bool:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, (ValueError, TypeError, CacheError)) or not self.root.exists():
            return False
        # Native writers say it in words of their own, or not at all: ask the disk.
        return shutil.disk_usage(self.root).free < _LITTLE_ROOM


@lru_cache(maxsize=1)
def _place() -> str:
    """The same for processes that see each other by their numbers: of one host, and one container
    there."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not on Linux
        numbers = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbers}".encode()).hexdigest()[:8]


def _used_at(path: Path) -> int:
    """When an entry was used last, nanoseconds; 0 where it is gone by now."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_older(path: Path, seconds: float) -> bool:
    """Whether nothing in a folder was written to for so long; False where it is gone by now."""
    try:
        latest = max(p.stat().st_mtime for p in (path, *path.rglob("*")))
    except OSError:
        return False
    return time.time() - latest > seconds


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
