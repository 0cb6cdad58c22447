"""Signatures are plain values that survive JSON."""

from __future__ import annotations

import json

import pytest

from supernet.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("ids", "int64", ("rows", "length")), TensorSpec("t", "float32", ())),
    outputs=(TensorSpec("output_0", "float32", ("rows", "any", 384)),),
    batchable=True,
    paddable=False,
    min_length=5,
)


def test_json_and_back() -> None:
    assert Signature.from_json(json.loads(json.dumps(SIGNATURE.to_json()))) == SIGNATURE


def test_axes_are_seen() -> None:
    assert (SIGNATURE.has_rows, SIGNATURE.has_length) == (True, True)
    fixed = Signature((TensorSpec("x", "float32", (1, 8)),), (), batchable=False, paddable=False)
    assert (fixed.has_rows, fixed.has_length) == (False, False)


def test_shapes() -> None:
    assert TensorSpec("x", "float32", ("rows", 3, "length")).shape(2, 7) == (2, 3, 7)
    with pytest.raises(ValueError, match="dims of 'output_0' must be known ahead"):
        SIGNATURE.outputs[0].shape(1, 1)


@pytest.mark.parametrize("change", [{"v": 2}, {"v": None}])
def test_another_schema_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="signature schema must be 1, got"):
        Signature.from_json({**SIGNATURE.to_json(), **change})


@pytest.mark.parametrize("dim", ["width", -1, True, None])
def test_an_unknown_dim_is_refused(dim: object) -> None:
    with pytest.raises(ValueError, match="dim must be a size, 'rows'"):
        TensorSpec.from_json({"name": "x", "dtype": "float32", "dims": [dim]})
