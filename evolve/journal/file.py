"""The journal's file as bytes: locked, appended to, cut when torn, renamed when full."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from evolve.errors import EvolveError
from evolve.journal.decision import Decision, NewerRecordError, RecordError
from evolve.journal.record import decode

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind: one runtime per path on trust
    fcntl = None  # type: ignore[assignment]

__all__ = ["JournalError", "JournalFile"]

CHUNK_BYTES = 1 << 16
_START = b'{"v":'


class JournalError(EvolveError, RuntimeError):
    """The journal cannot be kept at this path, or was used after `close`."""


class JournalFile:
    """Whole lines in, or nothing: a write that fails half-way is taken back.

    Opening finds the last whole record (`last_seq`, 0 when there is none) and moves what stands
    behind it to `PATH.torn` (`torn_bytes` says how much). Raises `JournalError`, with the remedy,
    for a path that cannot hold a journal. `write` and `sync` raise `OSError`.

    Others may rotate the file: one that was cut (`copytruncate`) is gone on with from its new end,
    one that was moved or deleted is begun anew at the path. `write` then says so.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path.expanduser().absolute()
        self.max_bytes = max_bytes
        self.torn_bytes = 0
        self._fd = _open(self.path)
        try:
            self._size, last = _last_record(self._fd, self.path)
            self.last_seq = last.seq if last else _last_seq(self._older)
            self._cut_torn()
        except OSError as error:
            os.close(self._fd)
            raise JournalError(_unusable(self.path, error)) from error
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def _older(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def write(self, line: bytes) -> str | None:
        """Append one line; after an `OSError` the file ends where it ended before.

        Returns what somebody else had done to the file, in words; mostly None.
        """
        changed = self._changed()
        if self._size and self._size + len(line) > self.max_bytes:
            self._rename_full()
        # Also takes back what an earlier failure could not: the file ends at a record, always.
        if os.fstat(self._fd).st_size != self._size:
            os.ftruncate(self._fd, self._size)
        try:
            _write_all(self._fd, line)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)
        return changed

    def _changed(self) -> str | None:
        """Goes on where the file at the path is another one or shorter by now."""
        mine = os.fstat(self._fd)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            try:
                fd = _open(self.path)
                try:
                    size, _ = _last_record(fd, self.path)
                except BaseException:
                    os.close(fd)
                    raise
            except JournalError as error:  # a fault that may pass, as of a full disk
                raise OSError(str(error)) from error
            os.close(self._fd)
            self._fd, self._size = fd, size
            what = "deleted or moved" if there is None else "replaced by another file"
            return f"the journal's file was {what} from outside; it goes on at the path"
        if mine.st_size < self._size:
            before, self._size = self._size, mine.st_size
            return (
                f"the journal's file was cut from outside, from {before} to {mine.st_size} bytes; "
                "it goes on from there"
            )
        return None

    def sync(self) -> None:
        """Wait for the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the file and its lock, which a fork would keep until it closes its copy."""
        _unlock(self._fd)
        os.close(self._fd)

    def leave(self) -> None:
        """Let go of a fork's copy; the lock stays its parent's."""
        os.close(self._fd)

    def _cut_torn(self) -> None:
        torn = os.fstat(self._fd).st_size - self._size
        if torn <= 0:
            return
        kept = self.path.with_name(self.path.name + ".torn")
        keep_fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            offset = self._size
            while chunk := os.pread(self._fd, CHUNK_BYTES, offset):
                _write_all(keep_fd, chunk)
                offset += len(chunk)
            os.fsync(keep_fd)
        finally:
            os.close(keep_fd)
        os.ftruncate(self._fd, self._size)
        self.torn_bytes = torn

    def _rename_full(self) -> None:
        """PATH becomes PATH.1 (replacing an older one) and an empty, locked file takes its place.

        The lock is taken before the name is, so that nobody can slip in between.
        """
        fresh = self.path.with_name(self.path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, self.path)
            os.fsync(self._fd)
            os.replace(self.path, self._older)
            os.replace(fresh, self.path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size = fd, 0


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise JournalError(_unusable(path, error)) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise JournalError(f"journal path must be a regular file, got {path}")
        _lock(fd, path)
        _keep_to_owner(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _keep_to_owner(fd: int) -> None:
    """Nobody else reads or writes it, whatever made the file gave it away."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o077:
        with contextlib.suppress(OSError):  # somebody else's file, which may be written to
            os.fchmod(fd, mode & 0o700)


def _unusable(path: Path, error: OSError) -> str:
    why = error.strerror or str(error)
    return f"journal path must be a file that can be written, got {path} ({why})"


def _lock(fd: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f"journal path must belong to one runtime at a time, but {path} is in use; "
            "give each runtime a path of its own"
        ) from error


def _unlock(fd: int) -> None:
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _last_seq(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return 0
    try:
        _, last = _last_record(fd, path)
    finally:
        os.close(fd)
    return last.seq if last else 0


def _last_record(fd: int, path: Path) -> tuple[int, Decision | None]:
    """Where the last whole record ends and what it says; (0, None) when there is none.

    Reads backwards, line by line, so that opening a large journal costs one block.
    """
    end = os.fstat(fd).st_size
    size, tail = end, b""
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        tail = os.pread(fd, end - start, start) + tail
        end = start
        # The first piece may be the end of a line that begins further up: leave it for later.
        cut = 0 if start == 0 else tail.find(b"\n") + 1
        if start > 0 and cut == 0:
            continue
        found = _last_whole(tail[cut:], path)
        if found is not None:
            return start + cut + found[0], found[1]
        tail = tail[:cut]
    if size and not _looks_torn(os.pread(fd, CHUNK_BYTES, 0)):
        raise JournalError(
            f"journal path must be a journal or a new file, got {path}, which holds no decision; "
            "nothing in it was touched"
        )
    return 0, None


def _last_whole(block: bytes, path: Path) -> tuple[int, Decision] | None:
    end = len(block)
    lines = block.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + lines[-1:]
    for line in reversed(lines):
        try:
            return end, decode(line)
        except NewerRecordError as error:
            raise JournalError(
                f"journal path must be of this version, got {path}: {error}"
            ) from None
        except RecordError:
            end -= len(line)
    return None


def _looks_torn(content: bytes) -> bool:
    """Whether a file without any record can be a journal whose very first record was torn."""
    head = content[: len(_START)]
    return _START.startswith(head) or not content.strip(b"\0")
