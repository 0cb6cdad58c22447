"""A package imports only those to its left: profiler < supernet < policies < sims < evolve. Within
one no modules import each other in a circle, and a room only the rooms that are named here."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

ORDER = ("profiler", "supernet", "policies", "sims", "evolve")
ROOT = Path(__file__).parent.parent
FILES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))

ROOMS: dict[str, set[str]] = {
    "supernet.effects": set(),
    "supernet.jobs": set(),
    "supernet.dataflow": {"supernet.capture"},
    "supernet.domain": {"supernet.capture"},
    "supernet.experiments": {"supernet.capture", "supernet.effects"},
    "supernet.capture": {
        "supernet.backends", "supernet.dataflow", "supernet.domain", "supernet.effects",
        "supernet.experiments",
    },
    "supernet.backends": {"supernet.capture", "supernet.domain", "supernet.fusion"},
    "supernet.fusion": {"supernet.backends", "supernet.capture"},
    "supernet.elastic": {
        "supernet.backends", "supernet.capture", "supernet.experiments", "supernet.fusion",
        "supernet.jobs",
    },
    "supernet.elastic.axes": set(),
    "supernet.elastic.attention": {"supernet.elastic.axes"},
    "supernet.elastic.cutting": {"supernet.elastic.attention", "supernet.elastic.axes"},
    "supernet.distillation": {"supernet.elastic", "supernet.jobs"},
    "supernet.distillation.judging": {"supernet.distillation.learning"},
    "supernet.distillation.learning": set(),
    "supernet.building": {
        "supernet.backends", "supernet.capture", "supernet.fusion", "supernet.jobs",
    },
    "supernet.capture.calls": set(),
    "supernet.fusion.graph": set(),
    "supernet.fusion.kernels": set(),
    "supernet.fusion.rules": {"supernet.fusion.graph"},
    "supernet.fusion.lowering": {"supernet.fusion.kernels", "supernet.fusion.rules"},
    "supernet.fusion.precision": {
        "supernet.fusion.kernels", "supernet.fusion.lowering", "supernet.fusion.rules",
    },
    "supernet.fusion.report": {
        "supernet.fusion.graph", "supernet.fusion.kernels", "supernet.fusion.lowering",
        "supernet.fusion.rules",
    },
    "policies.strategic": set(),
    "sims.devices": set(),
    "sims.traces": set(),
    "sims.traces.files": set(),
    "sims.engine": {"sims.traces"},
    "sims.gym": {"sims.engine", "sims.traces"},
    "sims.scenarios": {"sims.devices", "sims.engine", "sims.traces"},
    "sims.evaluation": {"sims.engine", "sims.gym", "sims.traces"},
    "evolve.journal": set(),
    "evolve.config": {"evolve.journal"},
    "evolve.workers": set(),
    "evolve.monitoring": set(),
    # A lane names the types of what it offers its answers to, and no more.
    "evolve.data_plane": {
        "evolve.journal", "evolve.monitoring", "evolve.watch", "evolve.workers",
    },
    "evolve.watch": {"evolve.data_plane", "evolve.journal"},
    "evolve.rollout": set(),
    "evolve.evolution": set(),
    "evolve.control_plane": {
        "evolve.config", "evolve.data_plane", "evolve.evolution", "evolve.journal",
        "evolve.monitoring", "evolve.rollout", "evolve.watch", "evolve.workers",
    },
    "evolve.control_plane.generations": set(),
    "evolve.lifecycle": {
        "evolve.config", "evolve.control_plane", "evolve.data_plane", "evolve.evolution",
        "evolve.journal", "evolve.monitoring", "evolve.rollout", "evolve.watch", "evolve.workers",
    },
    "evolve.demo": {"evolve.config", "evolve.journal"},
    "evolve.cli": {"evolve.config", "evolve.demo", "evolve.evolution", "evolve.journal"},
    "evolve.cli.explaining": set(),
    "evolve.cli.evolving": {"evolve.cli.simulations"},
    "evolve.cli.simulations": set(),
}  # fmt: skip
"""What the files of a room may import beside those that lie in its package itself, and its own."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def modules(path: Path) -> set[str]:
    """Our own modules that a file imports, wherever in it, for the type checker too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= (names & MODULES.keys()) or {node.module}
            if names - MODULES.keys():
                found.add(node.module)
    return (found & MODULES.keys()) - {name_of(path)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = nx.DiGraph([(name, other) for name, path in MODULES.items() for other in modules(path)])
    assert [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1] == []


def room_of(module: str) -> str | None:
    """The folder below a package that a module lies in, None for one in the package itself."""
    folder = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return folder if "." in folder else None


def may_import(room: str, other: str) -> bool:
    """An inner room may import what the one around it may, and nothing else that is within that."""
    if any(other == one or other.startswith(f"{one}.") for one in (*ROOMS[room], room)):
        return True
    around = room.rpartition(".")[0]
    within = other.startswith(f"{around}.")
    return around in ROOMS and (other == around or (not within and may_import(around, other)))


@pytest.mark.parametrize("room", sorted({room for name in MODULES if (room := room_of(name))}))
def test_a_room_imports_only_those_it_may(room: str) -> None:
    used = {room_of(o) for name, p in MODULES.items() if room_of(name) == room for o in modules(p)}
    package = room.split(".")[0]
    others = {r for r in used if r is not None and r != room and r.split(".")[0] == package}
    assert {other for other in others if not may_import(room, other)} == set()


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


@pytest.mark.parametrize(
    "package",
    [
        name
        for name in MODULES
        if MODULES[name].name == "__init__.py" and "lazy_exports(" in MODULES[name].read_text()
    ],
)
def test_public_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), f"{package}.{name} is exported but missing"
