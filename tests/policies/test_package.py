"""What importing costs, and a compiled cache that can neither be stale nor stop anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    assert set(policies.__all__) == set(policies._HOME)
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


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    probe(tmp_path, 2)
    (tmp_path / "__pycache__").write_text("a file where a folder should be")
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    code = SMALL.format(folder=str(tmp_path))
    assert run(code, XDG_CACHE_HOME=str(nowhere), HOME=str(nowhere)) == "42"


def test_the_digest_follows_every_compiled_file() -> None:
    assert set(_jit._COMPILED) <= {p.name for p in (ROOT / "policies").glob("*.py")}
    using_jit = {p.name for p in (ROOT / "policies").glob("*.py") if "@jit" in p.read_text("utf-8")}
    assert using_jit <= set(_jit._COMPILED)
    own = _jit._digest(str(ROOT / "policies" / "compiled.py"))
    assert own != _jit._digest(str(ROOT / "sims" / "engine.py"))
