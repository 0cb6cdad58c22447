"""Captures that several modules of tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from supernet.capture.subject import Capture, capture
from supernet.fusion.kernels import native
from tests.supernet.lowered import Block
from tests.supernet.models import noise, seeded


@pytest.fixture(scope="session")
def block() -> Capture:
    return capture(seeded(Block), (noise(2, 6, 16),))


@pytest.fixture(scope="module")
def own_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Our kernels are loaded, and there is the one thread that they run on."""
    threads = torch.get_num_threads()

    def kept(key: str, make: Callable[[Path], None]) -> Path:
        make(folder := tmp_path_factory.mktemp("kernels"))
        return folder

    if (why := native.prepare(kept)) is not None:
        pytest.skip(why)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
