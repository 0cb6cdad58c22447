"""Batching and padding are withdrawn for good: for who comes, who waits, and the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.data_plane.liberties import Liberties, Licence, Memory
from evolve.data_plane.request_queue import Request
from supernet.cache import ArtifactCache
from supernet.errors import CacheError

BOTH = Liberties(batching=True, padding=True)


def waiting(*lengths: int) -> list[Request]:
    return [Request((), {}, [], 1, n, 0, 0, 0.0, 1.0, True) for n in lengths]


@pytest.mark.parametrize(
    ("batching", "padding", "group"), [(1, 1, 0), (1, 0, -7), (0, 1, 42), (0, 0, 42)]
)
def test_only_equal_groups_share_a_batch(batching: bool, padding: bool, group: int) -> None:
    assert Liberties(bool(batching), bool(padding)).group(length=7, number=42) == group


@pytest.mark.parametrize(
    ("batching", "padding", "lengths", "parts"),
    [
        (1, 1, (3, 5, 3), [((3, 5, 3), 8)]),
        (1, 0, (3, 5, 3), [((3, 3), 3), ((5,), 5)]),
        (1, 0, (5, 5), [((5, 5), 5)]),
        (0, 1, (3, 5), [((3,), 8), ((5,), 8)]),
        (0, 0, (3, 3), [((3,), 3), ((3,), 3)]),
    ],
)
def test_who_waited_together_is_answered_apart(
    batching: bool, padding: bool, lengths: tuple[int, ...], parts: list[object]
) -> None:
    requests = waiting(*lengths)
    made = Liberties(bool(batching), bool(padding)).apart(requests, 8)
    assert [(tuple(r.length for r in members), length) for members, length in made] == parts
    assert {id(r) for members, _ in made for r in members} == {id(r) for r in requests}


def memory(root: Path, graph_hash: str = "a" * 64) -> Memory:
    return Memory(root, lambda: ArtifactCache(root), graph_hash)


def test_what_was_withdrawn_stays_so_after_a_restart(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    first = Licence(BOTH, memory(root))
    assert first.now == BOTH
    assert not root.exists()  # nothing to remember: no folder for it either
    first.withdraw("padding", "zeros won")
    first.withdraw("padding", "a later word changes nothing")
    assert first.now == Liberties(batching=True, padding=False)
    again = Licence(BOTH, memory(root))
    assert again.now == first.now
    assert again.withdrawn == {"padding": "zeros won"}
    again.withdraw("batching", "rows are coupled")
    assert Licence(BOTH, memory(root)).now == Liberties(batching=False, padding=False)
    assert Licence(BOTH, memory(root, "b" * 64)).now == BOTH


def test_what_was_never_granted_is_not_given_back(tmp_path: Path) -> None:
    licence = Licence(Liberties(batching=False, padding=False), memory(tmp_path / "cache"))
    licence.withdraw("padding", "why not")
    assert licence.now == Liberties(batching=False, padding=False)


def test_a_cache_that_cannot_be_used_costs_the_memory_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "cache"
    licence = Licence(BOTH, memory(root))
    with pytest.raises((OSError, CacheError)):
        licence.withdraw("batching", "rows are coupled")
    assert licence.now == Liberties(batching=False, padding=True)


def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    Licence(BOTH, memory(root)).withdraw("padding", "zeros won")
    (report,) = (root / "reports").glob("memo-liberties-*.json")
    report.write_text("{")
    assert Licence(BOTH, memory(root)).now == BOTH


def test_a_new_capture_of_the_model_does_not_take_it_again() -> None:
    earlier: dict[str, str] = {}
    Licence(BOTH, None, earlier).withdraw("batching", "rows are coupled")
    assert Licence(BOTH, None, earlier).now == Liberties(batching=False, padding=True)
