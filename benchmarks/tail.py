"""How long the latest decisions of a large journal take to be shown, whole or damaged.

`evolve log --tail 20`, as a user runs it in a process of its own, and once more where everything
is imported by then. Damage is what a power cut leaves: a stretch of NULs.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Figure, publish
from evolve.cli import main as command
from evolve.journal.journal import Journal

BYTES, NULS = 1 << 30, 64 << 20
RECORDS = 2_000  # that differ; the journal repeats them
TAIL = 20
REPEATS = 5
TARGET_S = 1.0
QUESTION = f"Seconds of `evolve log --tail {TAIL}` of a journal of 1 GiB"


def main() -> None:
    rows: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        records = _records(Path(folder) / "small.jsonl")
        latest = sum(map(len, records[-TAIL // 2 :]))
        damages = {
            "whole": None,
            "NULs in the middle": BYTES // 2,
            f"NULs before the last {TAIL // 2}": BYTES - latest - NULS,
            "NULs at the end": BYTES - NULS,
        }
        for name, at in damages.items():
            _write(path, b"".join(records), at)
            asked = ["log", str(path), "--tail", str(TAIL)]
            rows[f"{name}: the function"] = _median_s(lambda asked=asked: _here(asked))
            rows[f"{name}: the command"] = _median_s(lambda asked=asked: _as_a_user(asked))
    publish("tail", QUESTION, rows, bytes=BYTES, nuls=NULS, repeats=REPEATS)


def _records(path: Path) -> list[bytes]:
    """Lines of a journal as a service writes them."""
    with Journal(path, device="cpu-1a2b") as journal:
        for number in range(RECORDS):
            journal.append(
                "tick", "params", policy="rule", reason=f"load is {number % 97} % of capacity",
                seen={f"signal_{i}": number / (i + 1) for i in range(24)},
                before={"max_rows": 8, "wait_ms": 2.0}, after={"max_rows": 16, "wait_ms": 1.0},
                scores={"goodput_per_s": number * 1.5},
            )  # fmt: skip
    return path.read_bytes().splitlines(keepends=True)


def _write(path: Path, block: bytes, nuls_at: int | None) -> None:
    """A journal of `BYTES` that ends with the end of `block`."""
    with path.open("wb") as file:
        file.write(block[-(BYTES % len(block)) :])
        for _ in range(BYTES // len(block)):
            file.write(block)
        if nuls_at is not None:
            file.seek(nuls_at)
            file.write(bytes(NULS))


def _here(asked: list[str]) -> None:
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        status = command(asked)
    _check(status, out.getvalue())


def _as_a_user(asked: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evolve", *asked], capture_output=True, text=True, check=False
    )
    _check(done.returncode, done.stdout)


def _check(status: int, shown: str) -> None:
    if status or len(shown.splitlines()) != TAIL:
        raise RuntimeError(f"the command must show {TAIL} decisions, got status {status}: {shown}")


def _median_s(call: Callable[[], None]) -> Figure:
    call()  # imports, and the file's pages
    times = []
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - began_s)
    return Figure(statistics.median(times), TARGET_S)


if __name__ == "__main__":
    main()
