"""Supernets and sub-networks on disk, in other processes, exported again and built as plans."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from profiler.shapes import Shape
from supernet.backends.eager import EagerPlan, load_program, save_program
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.probe import agree
from supernet.capture.stored import store
from supernet.elastic.extracted import Subnet
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.experiments.references import Reference
from supernet.plans import PlanState
from tests.supernet.contract import make_spec
from tests.supernet.elastic.elastic_models import captured, flat, padded
from tests.supernet.models import noise

ROOT = Path(__file__).parents[3]
ELSEWHERE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from supernet.elastic.{module} import {kind}
folder = Path(sys.argv[1])
inputs = load_file(folder / "inputs.safetensors")
given = [inputs[str(i)] for i in range(len(inputs))]
module = {make}
with torch.no_grad():
    answers = module(*given)
assert not [name for name in sys.modules if name.startswith(("tests", "transformers"))]
save_file({{str(i): a.clone() for i, a in enumerate(answers)}}, folder / "answers.safetensors")
"""


def halved(net: Supernet) -> SubnetSpec:
    choices = {
        gene.name: gene.choices[len(gene.choices) // 2]
        for gene in net.space.genes
        if not gene.name.endswith(("skipped", "kind"))
    }
    last = next((g.name for g in reversed(net.space.genes) if g.name.endswith("skipped")), None)
    return net.space.spec({**choices, **({last: True} if last and len(choices) > 3 else {})})


def inputs_of(name: str) -> list[torch.Tensor]:
    call = padded(3, 11) if name in ("bert", "llama") else (noise(3, 3, 16, 16),)
    return flat(captured(name)[1], call)


def elsewhere(folder: Path, given: list[torch.Tensor], **names: str) -> list[torch.Tensor]:
    """The answers that a fresh process gives to these inputs."""
    from safetensors.torch import load_file, save_file

    save_file({str(i): t for i, t in enumerate(given)}, folder / "inputs.safetensors")
    code = ELSEWHERE.format(**names)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = load_file(folder / "answers.safetensors")
    return [answers[str(i)] for i in range(len(answers))]


@pytest.mark.parametrize("name", ["bert", "llama", "mobilenet"])
def test_a_subnet_answers_the_same_in_another_process(name: str, tmp_path: Path) -> None:
    net = Supernet.of(captured(name)[1])
    given = inputs_of(name)
    subnet = net.reordered([given]).extract(halved(net))
    subnet.save(tmp_path)
    got = elsewhere(
        tmp_path, given, module="extracted", kind="Subnet", make="Subnet.load(folder).module"
    )
    assert agree(got, list(subnet.module(*given)))  # sums in another order: other threads


def test_a_subnet_read_back_is_what_it_was(tmp_path: Path) -> None:
    net = Supernet.of(captured("bert")[1])
    subnet = net.extract(halved(net))
    subnet.save(tmp_path)
    again = Subnet.load(tmp_path)
    assert (again.spec, again.signature) == (subnet.spec, subnet.signature)
    assert again.module.state_dict().keys() == subnet.module.state_dict().keys()
    trains = {name for name, _ in subnet.module.named_parameters()}
    assert {name for name, _ in again.module.named_parameters()} == trains
    record = json.loads((tmp_path / "subnet.json").read_text())
    (tmp_path / "subnet.json").write_text(json.dumps({**record, "v": 7}))
    with pytest.raises(ValueError, match=r"schema of subnet\.json must be 1, got 7"):
        Subnet.load(tmp_path)


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_a_subnet_read_back_exports_again(name: str, tmp_path: Path) -> None:
    net = Supernet.of(captured(name)[1])
    subnet = net.extract(halved(net))
    subnet.save(tmp_path)
    plan = EagerPlan(Subnet.load(tmp_path).export())
    given = inputs_of(name)
    assert agree(plan.run(given), list(subnet.module(*given)))


def test_a_trained_supernet_answers_the_same_in_another_process(tmp_path: Path) -> None:
    net = Supernet.of(captured("bert")[1])
    given = inputs_of("bert")
    elastic = net.reordered([given]).elastic()
    with torch.no_grad():
        for weight in elastic.parameters():
            weight.mul_(1.01)
    trained = net.with_weights(elastic.weights())
    spec = halved(net)
    trained.save(tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    again = Supernet.load(tmp_path)
    assert again.full == net.full
    assert [gene.name for gene in again.space.genes] == [gene.name for gene in net.space.genes]
    assert torch.equal(again.module(net.full)(*given)[0], net.module(net.full)(*given)[0])
    make = (
        "Supernet.load(folder).module(__import__('supernet').SubnetSpec.from_json("
        "json.loads((folder / 'spec.json').read_text())))"
    )
    got = elsewhere(tmp_path, given, module="supernet", kind="Supernet", make=make)
    assert agree(got, list(trained.module(spec)(*given)))


def test_a_subnets_program_is_built_verified_and_admitted(tmp_path: Path) -> None:
    """As the original's would be: the same signature, another program, its own references."""
    _, learned = captured("bert")
    net = Supernet.of(learned)
    spec = halved(net)
    module, program = net.module(spec), net.program(spec)
    with torch.no_grad():
        references = tuple(
            Reference(r.shape, r.inputs, tuple(module(*r.inputs))) for r in learned.references
        )
    small = dataclasses.replace(
        learned, program=program, graph_hash="small" + learned.graph_hash[5:],
        references=references, ops=None, unseen=type(learned.unseen)(),
    )  # fmt: skip
    cache = ArtifactCache(tmp_path / "cache")
    limits = BuildLimits(measure_s=0.5)
    plan = build_plan(cache, store(cache, small), make_spec(small, "eager"), limits)
    assert plan.state is PlanState.VERIFIED, plan.reason
    assert plan.error is not None
    assert plan.error < 1e-5


def test_a_subnets_program_is_written_and_read(tmp_path: Path) -> None:
    net = Supernet.of(captured("resnet")[1])
    spec = halved(net)
    save_program(net.program(spec), tmp_path / "program.pt2")
    again = load_program(tmp_path / "program.pt2")
    given = inputs_of("resnet")
    assert agree(EagerPlan(again).run(given), list(net.module(spec)(*given)))


def test_costs_follow_what_is_kept() -> None:
    model, learned = captured("bert")
    net = Supernet.of(learned)
    shape = Shape(2, 8)
    full = net.cost(net.full, shape)
    assert full.parameters >= sum(weight.numel() for weight in model.parameters())
    names = [layer.name for layer in net.full.layers]
    half = net.cost(net.full.replace(names[0], widths=(32,)), shape)
    assert full.parameters - half.parameters == 32 * (32 + 1 + 32)
    assert full.weight_bytes - half.weight_bytes == 4 * 32 * (32 + 1 + 32)
    products = 2 * 2 * 8 * 32 * 32 * 2
    assert full.flops - half.flops >= products
    assert full.flops - half.flops < 1.1 * products
    skipped = net.cost(net.full.replace(names[0], skipped=True), shape)
    assert skipped.flops < half.flops
