"""Arrays through shared memory: what one side writes, the other reads, whatever its layout."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from evolve.workers.wire import SharedArrays, memory_file


def pair() -> tuple[SharedArrays, SharedArrays]:
    fd = memory_file()
    return SharedArrays(fd), SharedArrays(os.dup(fd))


@given(
    st.lists(
        npst.arrays(
            st.sampled_from([np.float32, np.int64, np.bool_, np.uint8]),
            npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        ),
        max_size=4,
    )
)
@settings(deadline=None)
def test_what_is_written_is_read(arrays: list[np.ndarray]) -> None:
    writer, reader = pair()
    read = reader.read(writer.write(arrays))
    assert len(read) == len(arrays)
    for got, sent in zip(read, arrays, strict=True):
        np.testing.assert_array_equal(got, sent)
        assert got.dtype == sent.dtype


def test_any_layout_arrives_contiguous() -> None:
    writer, reader = pair()
    sent = np.arange(24.0).reshape(4, 6).T[::2]
    (got,) = reader.read(writer.write([sent]))
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, sent)


def test_the_memory_grows_and_the_reader_follows_while_old_views_stay() -> None:
    writer, reader = pair()
    (small,) = reader.read(writer.write([np.full(8, 7.0)]))
    large = np.arange(1 << 20, dtype=np.float64)
    (got,) = reader.read(writer.write([large]))
    np.testing.assert_array_equal(got, large)
    assert small.shape == (8,)  # lent, so what it holds now is the writer's; but no crash


def test_a_place_outside_the_memory_is_an_error_not_a_crash() -> None:
    writer, reader = pair()
    writer.write([np.zeros(8)])
    for place in (["<f8", [1 << 40], 0], ["<f8", [1], 1 << 40], ["<f8", [1], -8]):
        with pytest.raises(ValueError, match=r"buffer|offset|dimension"):
            reader.read([place])


@pytest.mark.parametrize("dtype", ["O", "nonsense"])
def test_nothing_but_numbers_is_read(dtype: str) -> None:
    writer, reader = pair()
    writer.write([np.zeros(8)])
    with pytest.raises((TypeError, ValueError)):
        reader.read([[dtype, [1], 0]])


def test_the_descriptor_is_closed_with_its_last_user() -> None:
    fd = memory_file()
    memory = SharedArrays(fd)
    (view,) = memory.read(memory.write([np.ones(4)]))
    del memory
    gc.collect()
    assert view.sum() == 4.0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
