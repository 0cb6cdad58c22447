"""Captures that several modules of tests share."""

from __future__ import annotations

import pytest

from supernet.capture import Capture, capture
from tests.supernet.lowered import Block
from tests.supernet.models import noise, seeded


@pytest.fixture(scope="session")
def block() -> Capture:
    return capture(seeded(Block), (noise(2, 6, 16),))
