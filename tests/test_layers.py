"""A package imports only those to its left: profiler < supernet < policies < sims < evolve."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ORDER = ("profiler", "supernet", "policies", "sims", "evolve")
ROOT = Path(__file__).parent.parent
FILES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_to_the_left(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    to_the_right = set(ORDER[ORDER.index(package) + 1 :])
    assert not imported(path) & to_the_right


@pytest.mark.parametrize("package", ORDER)
def test_importing_a_package_is_light(package: str) -> None:
    """No framework is loaded until something needs it."""
    heavy = "torch|numba|onnxruntime|openvino|stable_baselines3|transformers|matplotlib"
    code = f"import sys, {package}; print([m for m in {heavy!r}.split('|') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ORDER)
def test_public_names_exist(package: str) -> None:
    module = __import__(package)
    assert module.__all__
    for name in module.__all__:
        assert hasattr(module, name), f"{package}.{name} is exported but missing"
