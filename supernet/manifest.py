"""Hashes of the files in a cache entry, and records that notice their own damage."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["broken", "digest", "sync", "unseal", "write_manifest", "write_sealed"]

_MANIFEST = "manifest.json"
_SCHEMA = 2
_CHUNK = 1 << 20


def write_manifest(folder: Path, key: str) -> None:
    """Hash and sync every file in ``folder``, make all of it owner-only, and say so in it."""
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            os.chmod(path, 0o700)
            continue
        os.chmod(path, 0o600)
        files[path.relative_to(folder).as_posix()] = _digest(path)
        sync(path)
    os.chmod(folder, 0o700)
    write_sealed(folder / _MANIFEST, {"key": key, "files": files})
    sync(folder)


def broken(folder: Path, key: str) -> str | None:
    """Why the entry must not be used, in one line; None if every file is as it was written."""
    try:
        return _fault(folder, key)
    except OSError as error:  # it vanishes this very moment, or its disk fails
        return f"it cannot be read: {error}"


def _fault(folder: Path, key: str) -> str | None:
    fault = _not_ours(folder)
    if fault is not None:
        return fault
    if not folder.is_dir():
        return "it is no folder"
    try:
        record = unseal(folder / _MANIFEST)
        files = dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read: {error}"
    if record.get("key") != key:
        return "its manifest belongs to another entry"
    for path in folder.rglob("*"):
        fault = _not_ours(path)
        if fault is not None:
            return fault
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name == _MANIFEST:
            continue
        if name not in files:
            return f"{name} is not in its manifest"
        if _digest(path) != files.pop(name):
            return f"{name} is not what was written (hash differs)"
    return f"{next(iter(files))} is missing" if files else None


def digest(folder: Path) -> str:
    """The same for an entry of the same key and the same files."""
    return hashlib.sha256((folder / _MANIFEST).read_bytes()).hexdigest()


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` with a hash of itself, synced and owner-only; not in one step."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(sealed(record))
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o600)


def sealed(record: Mapping[str, Any]) -> str:
    """``record`` as JSON that carries a hash of itself."""
    body = _canonical(record)
    seal = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"v":{_SCHEMA},"sha256":"{seal}","body":{body}}}\n'


def unseal(path: Path) -> dict[str, Any]:
    """The record in a file that ``sealed`` made; ``ValueError`` if a single byte differs."""
    fault = _not_ours(path)
    if fault is not None:
        raise ValueError(fault)
    text = path.read_text(encoding="utf-8")
    try:
        body = json.loads(text)["body"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a sealed record") from error
    if not isinstance(body, dict) or sealed(body) != text:
        raise ValueError(f"{path.name} is not what was written (hash differs)")
    return body


def sync(path: Path) -> None:
    """Make a file's content, or a rename into a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _not_ours(path: Path) -> str | None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"{path.name} is a link"
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return f"{path.name} is neither a file nor a folder"
    if status.st_uid != os.geteuid():
        return f"{path.name} belongs to user {status.st_uid}"
    if status.st_mode & 0o022:
        return f"{path.name} can be written by others"
    return None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
