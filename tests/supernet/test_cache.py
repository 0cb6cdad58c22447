"""Nothing damaged, half-written or touchable by others is ever handed out."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from supernet import manifest
from supernet.cache import FOREIGN_S, ArtifactCache, _place
from supernet.errors import CacheFull, CacheUntrusted


class Discards(list[tuple[str, str]]):
    def __call__(self, entry: str, reason: str) -> None:
        self.append((entry, reason))


@pytest.fixture
def discards() -> Discards:
    return Discards()


@pytest.fixture
def cache(tmp_path: Path, discards: Discards) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", discards)


def fill(cache: ArtifactCache, key: str = "plan-1") -> Path:
    with cache.adding("plans", key) as folder:
        (folder / "model.bin").write_bytes(b"weights" * 100)
        (folder / "parts").mkdir()
        (folder / "parts" / "code.so").write_bytes(b"code")
    found = cache.entry("plans", key)
    assert found is not None
    return found


def files(cache: ArtifactCache) -> list[str]:
    return sorted(str(p.relative_to(cache.root)) for p in cache.root.rglob("*") if p.is_file())


def test_an_entry_is_owner_only_and_readable_again(cache: ArtifactCache) -> None:
    folder = fill(cache)
    assert (folder / "parts" / "code.so").read_bytes() == b"code"
    for path in [cache.root, *cache.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert ArtifactCache(cache.root).entry("plans", "plan-1") == folder
    assert cache.entry("plans", "plan-2") is None


@pytest.mark.parametrize("name", ["model.bin", "parts/code.so", "manifest.json"])
@pytest.mark.parametrize("position", [0, -2, 1000])
def test_a_flipped_bit_in_any_file_discards_the_entry(
    cache: ArtifactCache, discards: Discards, name: str, position: int
) -> None:
    path = fill(cache) / name
    content = bytearray(path.read_bytes())
    content[min(position, len(content) - 1)] ^= 1
    path.write_bytes(content)
    assert cache.entry("plans", "plan-1") is None
    assert [entry for entry, _ in discards] == ["plans/plan-1"]
    assert not (cache.root / "plans" / "plan-1").exists()
    assert fill(cache) == cache.root / "plans" / "plan-1"  # it can be built again


def test_what_else_is_wrong_with_an_entry(cache: ArtifactCache, discards: Discards) -> None:
    def cut(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"weights")

    def plant(folder: Path) -> None:
        (folder / "evil.so").write_bytes(b"")

    def link(folder: Path) -> None:
        (folder / "model.bin").unlink()
        (folder / "model.bin").symlink_to("/etc/passwd")

    def swap(folder: Path) -> None:
        other = fill(cache, "plan-2")
        (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())

    harms = {
        cut: "hash differs",
        plant: "evil.so is not in its manifest",
        link: "is a link",
        swap: "belongs to another entry",
        lambda folder: (folder / "model.bin").unlink(): "model.bin is missing",
        lambda folder: (folder / "manifest.json").unlink(): "manifest cannot be read",
        lambda folder: (folder / "manifest.json").write_text("[]"): "not a sealed record",
        lambda folder: folder.chmod(0o777): "can be written by others",
        lambda folder: (folder / "model.bin").chmod(0o606): "can be written by others",
    }
    for harm, reason in harms.items():
        harm(fill(cache))  # type: ignore[no-untyped-call]
        assert cache.entry("plans", "plan-1") is None, reason
        assert reason in discards[-1][1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_discarded(cache: ArtifactCache, discards: Discards) -> None:
    os.chown(fill(cache) / "model.bin", 12345, -1)
    assert cache.entry("plans", "plan-1") is None
    assert "belongs to user 12345" in discards[-1][1]


def test_a_cache_folder_of_another_user_is_refused(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(CacheUntrusted, match="must be a folder of this user"):
        ArtifactCache(cache.root)


def test_a_world_writable_cache_is_emptied_and_closed(
    cache: ArtifactCache, discards: Discards
) -> None:
    fill(cache)
    cache.put_report("r", {"a": 1})
    cache.root.chmod(0o777)
    again = ArtifactCache(cache.root, discards)
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    assert again.entry("plans", "plan-1") is None
    assert again.report("r") is None
    assert {reason for _, reason in discards} == {"others could write to the cache"}


def test_a_build_that_fails_leaves_nothing(cache: ArtifactCache) -> None:
    def fail() -> None:
        with cache.adding("plans", "plan-1") as folder:
            (folder / "model.bin").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert files(cache) == []
    assert not list(cache.root.glob(".tmp*"))


def test_a_full_disk_is_said_and_leaves_nothing(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", full)
    with pytest.raises(CacheFull, match="no room left for"):
        fill(cache)
    with pytest.raises(CacheFull, match="no room left for"):
        cache.put_report("r", {"a": 1})
    assert files(cache) == []
    monkeypatch.undo()
    fill(cache)


def test_a_native_writer_on_a_full_disk_is_understood(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("supernet.cache.shutil.disk_usage", lambda path: usage)
    with pytest.raises(CacheFull), cache.adding("plans", "plan-1"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/1")
    monkeypatch.undo()
    with pytest.raises(RuntimeError), cache.adding("plans", "plan-1"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/1")


def test_the_faster_of_two_processes_wins(cache: ArtifactCache) -> None:
    with cache.adding("plans", "plan-1") as folder:
        (folder / "model.bin").write_bytes(b"slow")
        fast = fill(cache)
    assert cache.entry("plans", "plan-1") == fast
    assert (fast / "model.bin").read_bytes() == b"weights" * 100


def test_work_of_dead_processes_is_swept_and_of_live_ones_kept(cache: ArtifactCache) -> None:
    dead, alive = (cache.root / f".tmp-{pid}-{_place()}-x" for pid in (2**22 + 1, os.getppid()))
    dead.mkdir()
    alive.mkdir()
    with cache.scratch() as mine:
        ArtifactCache(cache.root)
        assert (dead.exists(), alive.exists(), mine.exists()) == (False, True, True)


def test_work_of_another_container_is_kept_for_a_day(cache: ArtifactCache) -> None:
    fresh, old = (cache.root / f".tmp-{2**22 + 1}-{place}-x" for place in ("ffff0000", "ffff1111"))
    for folder in (fresh, old):
        folder.mkdir()
        (folder / "file").touch()
    for path in (old, old / "file"):
        os.utime(path, (0, time.time() - FOREIGN_S - 60))
    ArtifactCache(cache.root)
    assert (fresh.exists(), old.exists()) == (True, False)
    (fresh / "file").write_text("still at work")
    os.utime(fresh, (0, 0))
    cache.sweep()
    assert fresh.exists()


KEYS = ["a-1", "a-2", "a-3", "a-4"]


@pytest.fixture
def four(cache: ArtifactCache) -> list[str]:
    """Entries that were used in this order, long ago."""
    for n, key in enumerate([*KEYS, "b-1"]):
        os.utime(fill(cache, key), (n, n))
    return KEYS


def kept(cache: ArtifactCache) -> list[str]:
    return sorted(path.name for path in (cache.root / "plans").iterdir())


def test_those_used_last_are_kept_and_the_others_pruned(
    cache: ArtifactCache, four: list[str], discards: Discards
) -> None:
    cache.prune("plans", "a-", 4)
    assert kept(cache) == [*four, "b-1"]
    user = ArtifactCache(cache.root)
    assert user.held("plans", "a-1") == cache.root / "plans" / "a-1"
    del user
    cache.prune("plans", "a-", 2)
    assert kept(cache) == ["a-1", "a-4", "b-1"]
    assert sorted(discards) == [(f"plans/a-{n}", "2 others were used since") for n in (2, 3)]
    assert not list(cache.root.glob(".tmp-*"))
    assert cache.held("plans", "a-2") is None


def test_what_is_held_is_not_pruned(cache: ArtifactCache, four: list[str]) -> None:
    user = ArtifactCache(cache.root)
    for key in four[:2]:
        assert user.held("plans", key) is not None
    cache.prune("plans", "a-", 0)
    assert kept(cache) == ["a-1", "a-2", "b-1"]
    del user
    cache.prune("plans", "a-", 0)
    assert kept(cache) == ["b-1"]


def test_what_another_process_holds_is_not_pruned(cache: ArtifactCache, four: list[str]) -> None:
    holding = (
        "import sys\n"
        "from supernet.cache import ArtifactCache\n"
        "cache = ArtifactCache(sys.argv[1])\n"
        "print(cache.held('plans', 'a-1'), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holding, str(cache.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{cache.root / 'plans' / 'a-1'}\n"
        cache.prune("plans", "a-", 0)
        assert kept(cache) == ["a-1", "b-1"]
        process.kill()
    cache.prune("plans", "a-", 0)
    assert kept(cache) == ["b-1"]


def test_a_folder_that_goes_while_it_is_asked_for_is_gone(
    cache: ArtifactCache, tmp_path: Path
) -> None:
    folder = fill(cache)
    taker = os.open(folder, os.O_RDONLY)
    fcntl.flock(taker, fcntl.LOCK_EX)
    found: list[Path | None] = []
    asking = threading.Thread(target=lambda: found.append(cache.held("plans", "plan-1")))
    asking.start()
    folder.rename(tmp_path / "taken")
    os.close(taker)
    asking.join()
    assert found == [None]


def test_a_link_in_place_of_a_folder_is_not_held(
    cache: ArtifactCache, discards: Discards, tmp_path: Path
) -> None:
    (cache.root / "plans" / "plan-1").symlink_to(tmp_path)
    assert cache.held("plans", "plan-1") is None
    assert discards == [("plans/plan-1", "plan-1 is a link")]


def test_reports_notice_a_flipped_bit(cache: ArtifactCache, discards: Discards) -> None:
    cache.put_report("plan-1", {"error": 0.1, "worst": float("inf")})
    assert cache.report("plan-1") == {"error": 0.1, "worst": float("inf")}
    path = cache.root / "reports" / "plan-1.json"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        path.chmod(0o600)
        assert cache.report("plan-1") is None, position
    assert len(discards) == len(content)


@pytest.mark.parametrize("key", ["../x", "", "a/b", ".hidden", "x" * 65, "a\n"])
def test_keys_stay_inside_the_cache(cache: ArtifactCache, key: str) -> None:
    with pytest.raises(ValueError, match="key must match"):
        cache.entry("plans", key)
    with pytest.raises(ValueError, match="kind must be one of"):
        cache.entry("secrets", "x")


def test_a_report_under_another_name_is_none(cache: ArtifactCache, discards: Discards) -> None:
    cache.put_report("one", {"error": 0.0})
    folder = cache.root / "reports"
    (folder / "two.json").write_bytes((folder / "one.json").read_bytes())
    (folder / "two.json").chmod(0o600)
    assert cache.report("two") is None
    assert discards == [("reports/two", "it is another report's")]
    assert cache.report("one") == {"error": 0.0}


@pytest.mark.parametrize("content", [b"", b"[" * 200_000, b"7", b'{"body": {}}', b"\xff\xfe"])
def test_a_report_that_is_anything_else_is_none(cache: ArtifactCache, content: bytes) -> None:
    path = cache.root / "reports" / "one.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert cache.report("one") is None
    assert not path.exists()


def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(cache: ArtifactCache) -> None:
    os.mkfifo(cache.root / "reports" / "one.json", 0o600)
    assert cache.report("one") is None
    folder = fill(cache)
    os.mkfifo(folder / "pipe", 0o600)
    assert cache.entry("plans", "plan-1") is None
