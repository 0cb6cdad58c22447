"""Processes that run plans keep the memory that tensors leave, and give it back when told to."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from supernet.jobs import malloc

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="tunables are glibc's; others ignore them"
)

FAULTS = """
import resource, torch
from supernet.jobs import malloc

def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def batch():
    a, b = torch.ones(8, 1024, 1024), torch.ones(8, 1024, 1024)  # 32 MiB each
    return float((a + b)[0, 0, 0])

for _ in range(30):  # until the heap has found its layout
    batch()
again = faults(batch)
malloc.give_back()
print(again, faults(batch))
"""


def measured(environment: dict[str, str]) -> list[int]:
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    return [int(number) for number in answer.stdout.split()]


def test_memory_is_kept_until_it_is_given_back() -> None:
    untouched = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    stock, _ = measured(untouched)
    kept, given_back = measured(malloc.environment(untouched))
    assert kept < stock / 20
    assert given_back > kept + 30  # at least one per huge page


def test_the_users_own_settings_win() -> None:
    own = "glibc.malloc.trim_threshold=1:glibc.malloc.hugetlb=0"
    made = malloc.environment({"GLIBC_TUNABLES": own, "HOME": "/"})
    assert made["HOME"] == "/"
    assert made["GLIBC_TUNABLES"].split(":") == [*own.split(":"), "glibc.malloc.mmap_max=0"]
