"""What importing costs, and a compiled cache that can neither be stale nor stop anything."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policies
from policies import _jit

ROOT = Path(policies.__file__).parent.parent


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_presets_and_baselines_is_light() -> None:
    heavy = (
        "[m for m in ('numba', 'torch', 'stable_baselines3', 'safetensors') if m in sys.modules]"
    )
    code = f"import sys, policies; policies.PRESETS; policies.RulePolicy; print({heavy})"
    assert run(code) == "[]"


def test_every_public_name_resolves() -> None:
    for name in policies.__all__:
        assert getattr(policies, name) is not None
    assert set(policies.__all__) == set(dir(policies))
    with pytest.raises(AttributeError, match="module 'policies' has no attribute 'nothing'"):
        _ = policies.nothing


SMALL = """
import sys
sys.path.insert(0, {folder!r})
import probe
print(probe.twice(21))
"""


def probe(folder: Path, factor: int) -> None:
    (folder / "probe.py").write_text(
        "from policies._jit import jit\n\n"
        f"@jit\ndef twice(x: int) -> int:\n    return {factor} * x\n"
    )


def test_a_damaged_cache_is_compiled_anew(tmp_path: Path) -> None:
    probe(tmp_path, 2)
    code = SMALL.format(folder=str(tmp_path))
    assert run(code) == "42"
    files = list((tmp_path / "__pycache__").glob("probe.twice*.nb*"))
    assert files
    for file in files:
        file.write_bytes(b"damaged")
    assert run(code) == "42"


def test_beside_code_that_cannot_be_written_the_cache_is_kept_with_the_rest(
    tmp_path: Path,
) -> None:
    probe(tmp_path, 2)
    (tmp_path / "__pycache__").write_text("a file where a folder should be")
    (tmp_path / "tmp").mkdir()
    code = SMALL.format(folder=str(tmp_path))
    home = str(tmp_path / "__pycache__")
    env = {"HOME": home, "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path / "tmp")}
    assert run(code, **env) == "42"
    kept = tmp_path / "tmp" / f"evolve-{os.geteuid()}"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert list(kept.rglob("probe.twice*.nbi"))
    (kept / "numba").rename(tmp_path / "moved")
    kept.chmod(0o777)  # others could have put code there
    assert run(code, **env) == "42"
    assert not (kept / "numba").exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    probe(tmp_path, 2)
    (tmp_path / "__pycache__").write_text("a file where a folder should be")
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    (tmp_path / f"evolve-{os.geteuid()}").write_text("a file where a folder should be")
    code = SMALL.format(folder=str(tmp_path))
    env = {"XDG_CACHE_HOME": str(nowhere), "HOME": str(nowhere), "TMPDIR": str(tmp_path)}
    assert run(code, **env) == "42"


def package(folder: Path, **files: str) -> None:
    """Write modules of a package `small`; they import the compiler's door from this project."""
    (folder / "small").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "small" / f"{name}.py").write_text(text)


OUTER = """from policies._jit import jit
from small.inner import shifted
from small.layout import FACTOR


@jit
def twice(x: int) -> int:
    return FACTOR * shifted(x)
"""
INNER = "from policies._jit import jit\n\n\n@jit\ndef shifted(x: int) -> int:\n    return x + {}\n"
CALL = """
import sys
sys.path.insert(0, {folder!r})
from small.outer import twice
print(twice(10), sum(twice.stats.cache_hits.values()))
"""


def test_what_is_compiled_in_is_never_stale(tmp_path: Path) -> None:
    """numba itself would notice only a change of outer.py."""
    code = CALL.format(folder=str(tmp_path))
    package(tmp_path, outer=OUTER, inner=INNER.format(1), layout="FACTOR = 2\n", other="X = 1\n")
    assert run(code) == "22 0"
    assert run(code) == "22 1"
    package(tmp_path, other="X = 2\n")  # nothing compiled knows it
    assert run(code) == "22 1"
    package(tmp_path, inner=INNER.format(5))
    assert run(code) == "30 0"
    package(tmp_path, layout="FACTOR = 3\n")
    assert run(code) == "45 0"
    assert run(code) == "45 1"


def test_the_digest_follows_every_compiled_file(tmp_path: Path) -> None:
    """On a copy: each file with compiled code changes it, for whoever it may be called by."""
    for name in ("policies", "sims"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("copied_jit", tmp_path / "policies" / "_jit.py")
    assert spec is not None
    assert spec.loader is not None
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)

    def digests() -> dict[str, str]:
        copied._digest.cache_clear()
        sources = {"policies": "policies/compiled.py", "sims": "sims/engine/advance.py"}
        return {k: copied._digest(str(tmp_path / v)) for k, v in sources.items()}

    def followed(path: Path) -> set[str]:
        before, text = digests(), path.read_bytes()
        path.write_bytes(text + b"# changed\n")
        after = digests()
        path.write_bytes(text)
        return {name for name in before if before[name] != after[name]}

    files = {
        f"{name}/{path.name}": followed(path)
        for name in ("policies", "sims/engine")
        for path in sorted((tmp_path / name).glob("*.py"))
    }
    compiled = {name for name in files if "\n@jit" in (tmp_path / name).read_text("utf-8")}
    assert {"policies/uniform.py", "policies/_batch.py", "sims/engine/observe.py"} <= compiled
    for name in compiled | {"policies/_jit.py", "policies/params.py", "sims/engine/state.py"}:
        assert files[name] == ({"policies", "sims"} if name.startswith("policies") else {"sims"})
    assert files["policies/tactical.py"] == files["sims/engine/signals.py"] == set()


@_jit.jit
def _filled(array: Any, value: float) -> float:
    lent = _jit.borrowed(array)
    for k in range(lent.shape[0]):
        lent[k] = value
    return float(lent.sum())


def test_a_borrowed_array_is_the_same_array_and_not_counted() -> None:
    array = np.zeros(12)
    for view in (array, array[::3], array[6:]):
        array[:] = 0.0
        assert _filled(view, 2.0) == view.sum() == 2.0 * view.size
        assert array.sum() == view.sum()
    before = sys.getrefcount(array)
    for _ in range(10):
        _filled(array, 1.0)
    assert sys.getrefcount(array) == before
    gone = weakref.ref(array)
    del array, view
    gc.collect()
    assert gone() is None


@_jit.jit
def _held(seen: Any, sums: Any, count: int) -> None:
    """seen[0] while it runs, then seen[1]."""
    seen[0] = 1
    for k in range(count):
        sums[k % sums.shape[0]] += np.sqrt(k)
    seen[1] = 1


@_jit.jit_long
def _let_go(seen: Any, sums: Any, count: int) -> None:
    """The same; numba's cache would confuse two ways to compile one function."""
    seen[0] = 1
    for k in range(count):
        sums[k % sums.shape[0]] += np.sqrt(k)
    seen[1] = 1


def caught_running(function: Callable[[Any, Any, int], None], attempts: int) -> bool:
    """Whether this thread ever got to run while another one was within the compiled call."""
    function(np.zeros(2, np.int64), np.zeros(4), 1)  # compiled
    for _ in range(attempts):
        seen = np.zeros(2, np.int64)
        worker = threading.Thread(target=function, args=(seen, np.zeros(4), 20_000_000))
        worker.start()
        caught = False
        while worker.is_alive():
            # Read in this order: a call that is over cannot pass for one that runs.
            begun, ended = int(seen[0]), int(seen[1])
            caught = caught or (begun == 1 and ended == 0)
        worker.join()
        assert seen.tolist() == [1, 1]
        if caught:
            return True
    return False


def test_other_threads_run_during_a_long_call_and_not_during_a_short_one() -> None:
    assert caught_running(_let_go, attempts=50)
    assert not caught_running(_held, attempts=2)
