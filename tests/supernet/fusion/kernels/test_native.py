"""Our kernels are compiled where plans are built and travel with them; torch does without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from torch import nn

from supernet.backends.base import backend
from supernet.building.source import StoredSource
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture, store
from supernet.capture.subject import capture
from supernet.fusion.kernels import native
from tests.supernet.contract import MemorySource, make_spec
from tests.supernet.lowered import Block


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets the kernels that this process has loaded, now and when called."""

    def forget() -> None:
        monkeypatch.setattr(native, "_loaded", [])

    forget()
    return forget


def test_an_installed_package_brings_every_source() -> None:
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    with open(Path(__file__).parents[4] / "pyproject.toml", "rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["supernet"]
    folder = native.SOURCES[0].parent
    for source in (*native.SOURCES, *folder.glob("*.h")):
        assert any(fnmatch(f"fusion/kernels/{source.name}", pattern) for pattern in patterns), (
            source
        )


class Seen(nn.Module):
    """A convolution for Winograd's algorithm, then attention between the places of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(16, 32, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.see(x).relu().flatten(2).transpose(1, 2).unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(places, places, places)


@pytest.mark.parametrize("kernel", ["attention", "product", "winograd"])
@pytest.mark.parametrize("less", [(), ("-mno-avx512f",)], ids=["all", "without AVX-512"])
def test_a_kernel_stays_within_its_buffers(
    tmp_path: Path, kernel: str, less: tuple[str, ...]
) -> None:
    checked = Path(__file__).with_name(f"{kernel}_check.cpp")
    command = [str(native.compiler()), "-std=c++17", "-O1", "-g", "-march=native", *less,
               "-fsanitize=address,undefined", f"-I{native.SOURCES[0].parent}", str(checked),
               "-o", str(tmp_path / "check")]  # fmt: skip
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("own_kernels")
def test_a_plan_takes_them_along(tmp_path: Path) -> None:
    model = Seen().eval()
    x = torch.randn(2, 16, 12, 12)
    learned = capture(model, (x,))
    backend("fused").build(MemorySource(learned, tmp_path), make_spec(learned, "fused"), tmp_path)
    about = (tmp_path / "about.txt").read_text()
    assert "1 attentions, 1 convolutions by its own kernels" in about
    torch.save((x, model(x).detach()), tmp_path / "wanted.pt")
    script = """
import sys, torch
from pathlib import Path
from supernet.backends.base import backend
from supernet.fusion.kernels import native
torch.set_num_threads(1)
folder = Path(sys.argv[1])
x, wanted = torch.load(folder / "wanted.pt")
assert native.kernels() is None
plan = backend("fused").load(folder, None)
assert native.kernels() is not None
torch.testing.assert_close(plan.run([x])[0], wanted, atol=1e-5, rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)


def test_without_a_compiler_a_plan_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unloaded: Callable[[], None]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    model = Seen().eval()
    x = torch.randn(2, 16, 12, 12)
    learned = capture(model, (x,))
    backend("fused").build(MemorySource(learned, tmp_path), make_spec(learned, "fused"), tmp_path)
    about = (tmp_path / "about.txt").read_text()
    assert "no kernels of evolve's own (no C++ compiler is on the PATH)" in about
    assert not list(tmp_path.glob("*.so"))
    (answer,) = backend("fused").load(tmp_path, make_spec(learned, "fused")).run([x])
    torch.testing.assert_close(answer, model(x), atol=1e-5, rtol=1e-5)


def source_in(cache: ArtifactCache) -> StoredSource:
    learned = capture(nn.Linear(8, 8).eval(), (torch.randn(2, 8),))
    return StoredSource(cache, StoredCapture.read(store(cache, learned)), print)


def test_a_compiler_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unloaded: Callable[[], None]
) -> None:
    monkeypatch.setattr(native, "_FLAGS", ("--no-such-flag",))
    cache = ArtifactCache(tmp_path)
    assert "no-such-flag" in str(native.prepare(source_in(cache).kernels))
    assert not list((tmp_path / "kernels").iterdir())


@pytest.mark.usefixtures("own_kernels")
def test_they_are_compiled_once_for_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unloaded: Callable[[], None]
) -> None:
    compiled = []
    monkeypatch.setattr(
        native, "_compile", lambda cxx, folder, real=native._compile: (
            compiled.append(folder), real(cxx, folder)
        ),
    )  # fmt: skip
    source = source_in(ArtifactCache(tmp_path))
    for _ in range(2):
        unloaded()
        assert native.prepare(source.kernels) is None
        assert native.kernels() is not None
    assert len(compiled) == 1
    (entry,) = (tmp_path / "kernels").iterdir()
    (entry / "kernels.so").unlink()  # not overwritten: this process has it mapped
    (entry / "kernels.so").write_bytes(b"damaged")
    unloaded()
    assert native.prepare(source.kernels) is None
    assert len(compiled) == 2
    monkeypatch.setattr(native, "_FLAGS", (*native._FLAGS, "-O1"))
    unloaded()
    assert native.prepare(source.kernels) is None
    assert len(compiled) == 3


@pytest.mark.usefixtures("unloaded")
def test_kernels_that_cannot_be_loaded_are_told(tmp_path: Path) -> None:
    def kept(key: str, make: object) -> Path:
        (tmp_path / "kernels.so").write_bytes(b"not to be executed")
        return tmp_path

    if native.compiler() is None:
        pytest.skip("needs a C++ compiler")
    assert str(native.prepare(kept)).startswith("they cannot be loaded: ")
    assert native.kernels() is None


def test_what_was_not_compiled_here_is_refused(
    tmp_path: Path, unloaded: Callable[[], None]
) -> None:
    (tmp_path / "kernels.so").write_bytes(b"from elsewhere")
    with pytest.raises(OSError, match=r"kernels\.so"):
        native.load(tmp_path)
    assert native.kernels() is None


@pytest.mark.usefixtures("own_kernels")
def test_nothing_of_ours_nothing_stored(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    learned = capture(model, (torch.randn(2, 8),))
    backend("fused").build(MemorySource(learned, tmp_path), make_spec(learned, "fused"), tmp_path)
    assert "own" not in (tmp_path / "about.txt").read_text()
    assert not list(tmp_path.glob("*.so"))


@pytest.mark.usefixtures("own_kernels")
def test_a_block_with_attention_alone(tmp_path: Path) -> None:
    learned = capture(Block(width=64).eval(), (torch.randn(3, 1, 64),))
    backend("fused").build(MemorySource(learned, tmp_path), make_spec(learned, "fused"), tmp_path)
    assert ", 1 attentions by its own kernels" in (tmp_path / "about.txt").read_text()
