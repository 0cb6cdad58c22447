"""Where things are kept: the user's cache folder, or a private folder when there is none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.places import StorageFolder, storage_folder
from profiler.units import FingerprintDatabase, host_database

Arrange = Callable[[Path], str]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is whole until a test says otherwise, and a folder for temporary files."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return folder


def spare(folder: Path) -> Path:
    return folder / f"evolve-{os.geteuid()}"


def file_for_a_home(home: Path) -> str:
    home.rmdir()
    home.write_text("a file")
    return str(home)


def link_to_nowhere(home: Path) -> str:
    home.rmdir()
    home.symlink_to(home.parent / "gone")
    return str(home)


def file_for_the_folder(home: Path) -> str:
    (home / ".cache").mkdir()
    (home / ".cache" / "evolve").write_text("a file")
    return str(home)


def link_in_a_circle(home: Path) -> str:
    home.rmdir()
    home.symlink_to(home)
    return str(home)


def test_the_usual_folder_is_taken_where_it_can_be_made_or_is_there(tmp_path: Path) -> None:
    usual = tmp_path / "home" / ".cache" / "evolve"
    assert storage_folder() == StorageFolder(usual)
    assert not usual.parent.exists()  # looking creates nothing
    usual.mkdir(parents=True)
    assert storage_folder() == StorageFolder(usual)


@pytest.mark.parametrize(
    "arrange",
    [file_for_a_home, link_to_nowhere, link_in_a_circle, file_for_the_folder],
)
def test_without_a_home_a_private_folder_serves(
    arrange: Arrange, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", arrange(tmp_path / "home"))
    place = storage_folder()
    assert place.folder == spare(temporary)
    assert place.why
    assert list(temporary.iterdir()) == []


def test_a_user_whose_home_nobody_knows_gets_no_folder_called_tilde(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name, **_: f"~/.cache/{name}")
    why = "the home folder must be known, got ~/.cache/evolve"
    assert storage_folder() == StorageFolder(spare(temporary), why)


def test_a_folder_that_may_not_be_written_is_passed_over(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the system says, which knows read-only disks and more than modes."""
    asked = os.access

    def access(path: Path, mode: int, *, effective_ids: bool = False) -> bool:
        return Path(path) != tmp_path / "home" and asked(path, mode, effective_ids=effective_ids)

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(os, "supports_effective_ids", {access})
    assert storage_folder().folder == spare(temporary)
    assert storage_folder().why == f"{tmp_path / 'home'} must be writable, got one that is not"


def test_a_folder_of_another_user_is_passed_over(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tmp_path / "home" / ".cache" / "evolve"
    usual.mkdir(parents=True)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert storage_folder().folder == temporary / f"evolve-{other}"
    assert f"must belong to user {other}" in str(storage_folder().why)


def link(folder: Path) -> None:
    (folder.parent / "mine").mkdir()
    folder.symlink_to(folder.parent / "mine")


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def a_file(folder: Path) -> None:
    folder.write_text("")


@pytest.mark.parametrize("trap", [link, open_to_all, a_file])
def test_a_trap_among_temporary_files_is_not_walked_into(
    trap: Callable[[Path], None], tmp_path: Path, temporary: Path
) -> None:
    file_for_a_home(tmp_path / "home")
    trap(spare(temporary))
    place = storage_folder()
    assert place.folder is None
    assert f"{spare(temporary)} must be" in str(place.why)


def test_without_any_folder_devices_are_known_in_memory_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    file_for_a_home(tmp_path / "home")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert storage_folder().folder is None
    host_database.cache_clear()
    try:
        assert host_database().path is None
    finally:
        host_database.cache_clear()


def test_a_database_that_may_not_be_looked_for_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    known = FingerprintDatabase(tmp_path / "fingerprints.json", measure=False)
    assert known.fingerprints()
    assert "PermissionError" in known.faults[0]
