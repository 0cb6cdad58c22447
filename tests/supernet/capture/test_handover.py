"""A capture made in another process is the capture made here, but for the program."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from profiler.shapes import Shape
from supernet.capture.handover import from_plain, read_capture, to_plain, write_capture
from supernet.capture.subject import begin


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, flag: bool = True) -> dict[str, torch.Tensor]:
        mixed = self.mix(x)
        return {"mixed": mixed, "signs": mixed > 0, "half": mixed.to(torch.bfloat16)}


def test_all_but_the_program_arrives(tmp_path: Path) -> None:
    examples = [(torch.randn(1, 5, 4),), (torch.randn(2, 9, 4),)]
    subject = begin(Pair().eval(), examples)
    made = subject.capture(max_rows=4)
    write_capture(made, tmp_path)
    read = read_capture(tmp_path, subject)
    asked_by_itself = read_capture(tmp_path, begin(subject.model, examples))
    assert asked_by_itself.result == made.result
    assert made.exported
    assert read.exported
    assert read.program is None
    for field in dataclasses.fields(made):
        if field.name not in ("program", "references", "unseen"):
            assert getattr(read, field.name) == getattr(made, field.name), field.name
    assert [r.shape for r in read.references] == [r.shape for r in made.references]
    for got, want in zip(read.references, made.references, strict=True):
        pairs = zip((*got.inputs, *got.outputs), (*want.inputs, *want.outputs), strict=True)
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    x = torch.randn(3, 7, 4)
    flat = read.flatten((x,), {})
    assert (flat.rows, flat.length) == (3, 7)
    answer = subject.model(x)
    assert read.rebuild(list(answer.values())).keys() == answer.keys()


def test_what_could_not_be_captured_arrives_with_its_reason(tmp_path: Path) -> None:
    class Draws(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(1)

    subject = begin(Draws().eval(), (torch.zeros(1, 2),))
    made = subject.capture()
    write_capture(made, tmp_path)
    read = read_capture(tmp_path, subject)
    assert read.reason == made.reason
    assert read.reason is not None
    assert not read.exported
    assert read.form is None
    assert read.result is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, 2.5, "three", True, float("inf")),
        {"a": (Shape(2, 3),), Shape(1, 4): 0.5},
        frozenset({("", "x"), ("a.b", "y")}),
    ],
)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert from_plain(to_plain(value)) == value


def test_only_our_own_classes_travel() -> None:
    with pytest.raises(TypeError, match="must hold plain values"):
        to_plain(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="class must be one of ours, got 'os:system'"):
        from_plain({"class": "os:system", "fields": {}})
