"""Invented inputs look like the examples: a mask has a key in every row, and plans pass for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.backends.base import backend
from supernet.capture.subject import capture
from supernet.experiments.inputs import MaskForm, invented, mask_form, mask_forms
from supernet.fidelity import error
from tests.supernet.contract import MemorySource, make_spec, run
from tests.supernet.models import ids, seeded

RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
NO = float("-inf")


def rows_of(form: MaskForm, like: Tensor) -> set[tuple[float, ...]]:
    rng = torch.Generator().manual_seed(0)
    return {tuple(row) for _ in range(60) for row in form.draw(like, rng).tolist()}


def prefixes(length: int, *counts: int) -> set[tuple[float, ...]]:
    return {(1.0,) * count + (0.0,) * (length - count) for count in counts}


def test_prefix_masks_stay_so_with_every_length_but_none() -> None:
    form = mask_form([RIGHT, torch.ones(1, 7, dtype=torch.int64)])
    assert form == MaskForm("first", may_be_empty=False, may_be_full=True)
    assert rows_of(form, RIGHT) == prefixes(4, 1, 2, 3, 4)
    drawn = form.draw(RIGHT.bool(), torch.Generator().manual_seed(1))
    assert (drawn.dtype, drawn.shape) == (torch.bool, RIGHT.shape)


def test_padding_on_the_left_stays_there() -> None:
    form = mask_form([RIGHT.flip(1)])
    assert form is not None
    assert rows_of(form, RIGHT) == {row[::-1] for row in prefixes(4, 1, 2, 3, 4)}


def test_a_mask_that_marks_padding_never_marks_all() -> None:
    form = mask_form([torch.tensor([[False, False, True], [False, False, False]])])
    assert form is not None
    rows = rows_of(form, torch.zeros(2, 3, dtype=torch.bool))
    assert rows == {row[::-1] for row in prefixes(3, 0, 1, 2)}


def test_where_only_mixed_rows_were_seen_none_is_all_ones_or_all_zeros() -> None:
    form = mask_form([torch.tensor([[1, 0, 1], [0, 1, 0]])])
    assert form is not None
    rows = rows_of(form, RIGHT[:, :3])
    assert {sum(row) for row in rows} == {1, 2}
    assert len(rows) == 6, "the ones are anywhere"


@pytest.mark.parametrize("lowest", [NO, -1e9])
def test_masks_that_are_added_to_scores(lowest: float) -> None:
    causal = torch.full((3, 3), lowest).triu(1)[None]
    form = mask_form([causal])
    assert form == MaskForm("first", False, True, lowest)
    assert form is not None
    drawn = form.draw(causal, torch.Generator().manual_seed(0))
    assert drawn.shape == causal.shape
    assert set(drawn.unique().tolist()) <= {0.0, lowest}
    assert bool((drawn == 0).any(-1).all()), "each row has a key"


@pytest.mark.parametrize(
    "leaf",
    [
        torch.tensor([[3, 1, 2]]),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.tensor([[1, 1], [0, 0]]),
        torch.zeros(2, 3),
        torch.ones(2, 3),
        torch.tensor([1, 1, 0]),
        torch.ones(1, 2, dtype=torch.complex64),
    ],
)
def test_what_is_no_mask_as_far_as_can_be_told(leaf: Tensor) -> None:
    assert mask_form([leaf]) is None


def test_other_leaves_are_varied_as_ever() -> None:
    words = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])
    forms = mask_forms([[words, RIGHT]])
    others, mask = invented([words, RIGHT], forms, seed=1)
    assert forms[0] is None
    assert set(others.unique().tolist()) <= set(words.unique().tolist())
    assert not torch.equal(others, words)
    assert bool(mask[:, 0].all())


class Decoder(nn.Module):
    """Causal attention under a mask of the keys: nan, or whatever, in a row without any."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 16), nn.Linear(16, 8)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(words)[:, None]
        length = words.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        allowed = causal[None, None] & mask[:, None, None, :].bool()
        mixed = functional.scaled_dot_product_attention(x, x, x, attn_mask=allowed)
        return self.out(mixed[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_decoder_with_a_mask_keeps_its_engines(name: str, tmp_path: Path) -> None:
    examples = [
        (ids(1, 5), torch.tensor([[1, 1, 1, 0, 0]])),
        (ids(1, 9), torch.ones(1, 9, dtype=torch.int64)),
    ]
    learned = capture(seeded(Decoder), examples, max_rows=4)
    assert learned.program is not None, learned.reason
    for reference in learned.references:
        assert bool((reference.inputs[1][:, 0] == 1).all()), "a key for every row"
    engine = backend(name)
    if (why := engine.unavailable()) is not None:
        pytest.skip(why)
    spec = make_spec(learned, name)
    (out := tmp_path / "plan").mkdir()
    engine.build(MemorySource(learned, tmp_path), spec, out)
    plan = engine.load(out, spec)
    for reference in learned.references:
        off = error("relative_l2", run(plan, reference.inputs), reference.outputs)
        assert off < 1e-4, reference.shape
