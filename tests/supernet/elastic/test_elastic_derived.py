"""A sub-network of a stored capture as a capture of its own: stored, verified against itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture, store
from supernet.elastic import derived
from supernet.elastic.derive_job import DeriveRequest, work
from supernet.elastic.derived import Derived, derive
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.elastic.trained import digest_of
from supernet.errors import WrongArgument
from supernet.fidelity import agreement
from supernet.jobs.errors import BadRequest, JobCancelled
from supernet.plans import PlanState
from tests.supernet.contract import make_spec
from tests.supernet.elastic.elastic_models import captured
from tests.supernet.elastic.test_elastic_files import halved


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ArtifactCache:
    return ArtifactCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def original(cache: ArtifactCache) -> Path:
    return store(cache, captured("bert")[1])


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet.of(captured("bert")[1])


@pytest.fixture(scope="module")
def small(cache: ArtifactCache, original: Path, net: Supernet) -> Derived:
    return derive(cache, original, halved(net))


def read(cache: ArtifactCache, made: Derived) -> StoredCapture:
    return StoredCapture.read(made.folder(cache))


def test_its_batches_hold_its_own_answers(
    cache: ArtifactCache, original: Path, net: Supernet, small: Derived
) -> None:
    module = net.module(halved(net))
    before, now = StoredCapture.read(original), read(cache, small)
    for group in ("references", "usual", "strange"):
        assert now.shapes[group] == before.shapes[group]
        pairs = zip(now.batches("torch", group), before.batches("torch", group), strict=True)
        for own, theirs in pairs:
            assert all(map(torch.equal, own.inputs, theirs.inputs))
            with torch.no_grad():
                due = module(*own.inputs)
            assert all(
                torch.allclose(a, b, atol=1e-4) for a, b in zip(own.outputs, due, strict=True)
            )


def test_a_plan_of_it_is_verified_against_the_sub_network(
    cache: ArtifactCache, small: Derived
) -> None:
    _, learned = captured("bert")
    spec = make_spec(small.capture(learned), "eager")
    plan = build_plan(cache, small.folder(cache), spec, BuildLimits(measure_s=0.2))
    assert plan.state is PlanState.VERIFIED, plan.reason
    assert plan.error is not None
    assert plan.error < 1e-5
    assert min(small.agreement.values()) < 0.99  # by the original's answers it would have failed


def test_agreement_is_the_mean_over_the_usual_rows(
    cache: ArtifactCache, original: Path, small: Derived
) -> None:
    now, before = read(cache, small), StoredCapture.read(original)
    found = []
    for own, theirs in zip(
        now.batches("torch", "usual"), before.batches("torch", "usual"), strict=True
    ):
        for row in range(own.shape.rows):
            pair = ([o[row : row + 1] for o in side.outputs] for side in (own, theirs))
            found.append(agreement("cosine", *pair))
    assert small.rows == len(found)
    assert small.agreement["cosine"] == pytest.approx(sum(found) / len(found))


def test_it_is_found_again(
    cache: ArtifactCache,
    original: Path,
    net: Supernet,
    small: Derived,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(derived, "run_job", None)
    assert derive(ArtifactCache(cache.root), original, halved(net)) == small


def test_weights_tell_sub_networks_apart(
    cache: ArtifactCache, original: Path, net: Supernet, small: Derived, tmp_path: Path
) -> None:
    trained = {name: weight * 1.01 for name, weight in floats(net).items()}
    save_file(trained, tmp_path / "full.safetensors")
    spec = halved(net)
    full = derive(cache, original, spec, tmp_path / "full.safetensors")
    own = net.with_weights({**net.weights, **trained}).module(spec).state_dict()
    assert any(own[name].shape != net.original[name].shape for name in own)
    save_file({n: w for n, w in own.items() if n in trained}, tmp_path / "own.safetensors")
    narrowed = derive(cache, original, spec, tmp_path / "own.safetensors")
    assert len({small.graph_hash, full.graph_hash, narrowed.graph_hash}) == 3
    assert full.weights_version == narrowed.weights_version != small.weights_version
    a, b = read(cache, full).batches("torch")[0], read(cache, narrowed).batches("torch")[0]
    assert all(map(torch.equal, a.outputs, b.outputs))


def refused(cache: ArtifactCache, original: Path, spec: SubnetSpec, weights: Path | None) -> None:
    """What the job does with such a request, without a process of its own."""
    digest = "" if weights is None else digest_of(weights)
    work(
        DeriveRequest(
            str(cache.root), str(original), spec.to_json(), str(weights or ""), digest, "no", "no"
        ),
        lambda stage, share: None,  # type: ignore[arg-type]
    )


def floats(net: Supernet) -> dict[str, Tensor]:
    return {
        name: weight.clone() for name, weight in net.original.items() if weight.is_floating_point()
    }


def some(net: Supernet, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    weights = floats(net)
    name = max(weights, key=lambda name: weights[name].numel())
    return {**weights, name: change(weights[name])}


def with_nan(weight: Tensor) -> Tensor:
    weight.view(-1)[3] = float("nan")
    return weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_nan, "must be a number everywhere, got a NaN"),
        (lambda weight: weight / 0, "must be finite, as the model's own is"),
        (lambda weight: weight.double(), "must be torch.float32, got torch.float64"),
        (lambda weight: weight[:3, :3], r"must be of \(\d+, \d+\)"),
    ],
)
def test_unfit_weights_are_refused_by_name(
    cache: ArtifactCache, original: Path, net: Supernet, tmp_path: Path,
    change: Callable[[Tensor], Tensor], words: str,
) -> None:  # fmt: skip
    save_file({n: w.contiguous() for n, w in some(net, change).items()}, tmp_path / "w.safetensors")
    with pytest.raises(WrongArgument, match=f"the weight '[a-z.0-9_]+' {words}"):
        refused(cache, original, halved(net), tmp_path / "w.safetensors")


def test_names_that_the_model_does_not_have_are_refused(
    cache: ArtifactCache, original: Path, net: Supernet, tmp_path: Path
) -> None:
    save_file({"encoder.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(WrongArgument, match=r"as the model names its own, got 'encoder\.weight'"):
        refused(cache, original, halved(net), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_text("not one")
    with pytest.raises(WrongArgument, match="weights must be a safetensors file"):
        refused(cache, original, halved(net), tmp_path / "w.safetensors")


def linear(net: Supernet) -> SubnetSpec:
    layer = net.full.layers[0]
    attention = tuple(dataclasses.replace(a, kind="linear") for a in layer.attention)
    return net.full.replace(layer.name, attention=attention)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (lambda net: Supernet.of(captured("resnet")[1]).full, "the layers of a spec must be"),
        (lambda net: net.full.replace(net.full.layers[0].name, widths=(999,)), "from 0 to 64, got"),
        (lambda net: net.full, "must leave something out, got the whole model"),
        (linear, "kind must be one of softmax, none to be derived, got 'linear'"),
    ],
)
def test_a_spec_that_is_no_sub_network_of_the_model_is_refused(
    cache: ArtifactCache, original: Path, net: Supernet,
    spec: Callable[[Supernet], SubnetSpec], words: str,
) -> None:  # fmt: skip
    with pytest.raises(WrongArgument, match=words):
        refused(cache, original, spec(net), None)


def test_a_refusal_arrives_by_its_name(cache: ArtifactCache, original: Path, net: Supernet) -> None:
    with pytest.raises(BadRequest, match="spec must leave something out, got the whole model"):
        derive(cache, original, net.full)


def test_it_ends_when_nobody_wants_it_any_more(
    cache: ArtifactCache, original: Path, net: Supernet
) -> None:
    spec = net.full.replace(net.full.layers[0].name, skipped=True)
    with pytest.raises(JobCancelled):
        derive(cache, original, spec, cancelled=lambda: True)
