"""The package as a whole: what it exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import profiler

HEAVY = ("torch", "numba", "onnxruntime", "openvino", "rich", "pynvml", "psutil", "matplotlib")


def test_every_public_name_exists_and_is_listed() -> None:
    assert sorted(profiler.__all__) == profiler.__all__
    for name in profiler.__all__:
        assert getattr(profiler, name).__name__ == name
    assert dir(profiler) == profiler.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = profiler.nonsense


def test_importing_and_describing_imports_nothing_heavy() -> None:
    script = (
        "import sys, profiler\n"
        "from profiler.fingerprint import fingerprint\n"
        "[getattr(profiler, name) for name in profiler.__all__]\n"
        "fingerprint(measure=False)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
