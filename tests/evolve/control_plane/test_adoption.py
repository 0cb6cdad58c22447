"""What a user wants to serve is kept, with copies of its weights, for as long as it is wanted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evolve.control_plane.adoption import Adoptions
from supernet.elastic.subnet import LayerSpec, SubnetSpec

SPEC = SubnetSpec((LayerSpec("layer", skipped=True),))


def test_weights_are_copied_and_gone_once_it_is_not_wanted(tmp_path: Path) -> None:
    adoptions, weights = Adoptions(), {"a": torch.ones(2), "b": torch.ones(2)}
    weights["b"] = weights["a"]  # tied, which the format refuses as it is
    kept = adoptions.add(SPEC, weights, "tensors").weights
    assert kept is not None
    weights["a"].zero_()
    assert load_file(kept)["b"].tolist() == [1.0, 1.0]
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    copied = adoptions.add(SPEC, tmp_path / "w.safetensors", "file").weights
    assert copied is not None
    (tmp_path / "w.safetensors").unlink()
    assert load_file(copied)["a"].tolist() == [1.0, 1.0]
    adoptions.remove("file")
    assert not copied.exists()
    adoptions.close()
    assert not kept.parent.exists()


def test_a_fork_that_ends_leaves_them(tmp_path: Path) -> None:
    adoptions = Adoptions()
    kept = adoptions.add(SPEC, {"a": torch.ones(2)}, "tensors").weights
    assert kept is not None
    child = os.fork()
    if child == 0:
        adoptions.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert kept.exists()
    adoptions.close()


def test_names_follow_what_it_is() -> None:
    adoptions = Adoptions()
    plain = adoptions.add(SPEC, None, None).name
    with pytest.raises(ValueError, match=f"name must be a new one, got '{plain}'"):
        adoptions.add(SPEC, None, None)
    trained = [adoptions.add(SPEC, {"a": torch.full((2,), x)}, None).name for x in (1.0, 2.0)]
    assert len({plain, *trained}) == 3
    adoptions.close()


def test_it_is_bound_to_the_model_it_was_adopted_for_once() -> None:
    adoptions = Adoptions()
    made = adoptions.add(SPEC, None, "half")
    bound = adoptions.bind(made, "graph")
    assert (bound.graph_hash, adoptions.all()) == ("graph", (bound,))
    assert adoptions.bind(bound, "another") is bound
    assert adoptions.has(bound)
    assert not adoptions.has(made)
