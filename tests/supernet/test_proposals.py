"""Plans are proposed in a fixed order, and only where they can work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from profiler.fingerprint import DeviceFingerprint, fingerprint
from supernet.backends.aoti import AotiBackend
from supernet.capture.subject import Capture, capture
from supernet.fidelity import Limit
from supernet.fusion.rules.rules import is_compiled, rules_of
from supernet.proposals import propose, unavailable
from tests.supernet.models import Wrapped, noise

pytest.importorskip("onnxruntime", reason="the order is checked with every engine present")
pytest.importorskip("openvino", reason="the order is checked with every engine present")


@pytest.fixture(scope="module")
def learned() -> Capture:
    return capture(nn.Linear(4, 4).eval(), (noise(1, 4),))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> DeviceFingerprint:
    monkeypatch.setattr(AotiBackend, "unavailable", lambda self: None)
    sets = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
    return dataclasses.replace(fingerprint(measure=False), instruction_sets=sets)


def test_the_order_worth_building(learned: Capture, device: DeviceFingerprint) -> None:
    specs = propose(learned, device, threads=2)
    assert [(spec.backend, spec.precision) for spec in specs] == [
        ("fused", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"),
        ("onnxruntime", "int8"), ("openvino", "bf16"), ("aoti", "fp32"),
    ]  # fmt: skip
    assert {spec.threads for spec in specs} == {2}
    assert {spec.graph_hash for spec in specs} == {learned.graph_hash}
    assert all("avx512_bf16" in spec.isa for spec in specs)


def test_mixed_precision_is_proposed_within_a_limit_only(
    learned: Capture, device: DeviceFingerprint
) -> None:
    assert not propose(learned, device, precisions=("mixed",))
    limit = Limit("cosine", 0.01)
    (spec,) = propose(learned, device, ("fused",), precisions=("mixed",), limit=limit)
    assert (spec.backend, Limit.parse(spec.limit)) == ("fused", limit)
    assert rules_of(spec.fusion).rules


def test_what_is_left_to_torch_is_compiled_where_a_compiler_is_wanted_and_there(
    learned: Capture, device: DeviceFingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit("cosine", 0.01)
    fused = [s for s in propose(learned, device, limit=limit) if s.backend == "fused"]
    assert [is_compiled(spec.fusion) for spec in fused] == [False, False, True]
    assert {rules_of(spec.fusion).rules for spec in fused} == {rules_of(fused[0].fusion).rules}
    assert len(propose(learned, device, ("fused",), limit=limit)) == 2
    monkeypatch.setattr(AotiBackend, "unavailable", lambda self: "no C++ compiler")
    assert not any(is_compiled(spec.fusion) for spec in propose(learned, device, limit=limit))


def test_deep_programs_are_compiled_layer_by_layer_and_not_as_a_whole(
    device: DeviceFingerprint,
) -> None:
    def of(*layers: nn.Module, threads: int = 1) -> list[tuple[str, bool]]:
        deep = capture(nn.Sequential(*layers).eval(), (noise(1, 4),))
        specs = propose(deep, device, precisions=("fp32",), threads=threads)
        return [(s.backend, is_compiled(s.fusion)) for s in specs if s.backend in ("aoti", "fused")]

    whole, by_layers = ("aoti", False), ("fused", True)
    assert of(*(nn.Linear(4, 4) for _ in range(9))) == [("fused", False), whole]
    deep = [nn.Linear(4, 4) if i % 2 else nn.Tanh() for i in range(410)]
    for layers, threads, wanted in (
        (deep, 1, by_layers), (deep, 2, by_layers), (deep[:110], 1, by_layers),
        (deep[:110], 2, whole),
    ):  # fmt: skip
        assert of(*layers, threads=threads) == [("fused", False), wanted]
    image = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 1), nn.Flatten()]
    assert of(*image, *deep) == [("fused", False), whole]
    learned = capture(nn.Sequential(*deep).eval(), (noise(1, 4),))
    assert "aoti" in {s.backend for s in propose(learned, device, ("aoti", "fused"))}
    low = capture(nn.Sequential(*deep).bfloat16().eval(), (noise(1, 4).bfloat16(),))
    assert [s.backend for s in propose(low, device)] == ["aoti"]


def test_choices_narrow_it(learned: Capture, device: DeviceFingerprint) -> None:
    specs = propose(learned, device, ("eager", "openvino"), ("fp32",))
    assert [spec.backend for spec in specs] == ["openvino", "eager"]
    plain = dataclasses.replace(device, instruction_sets=("avx2",))
    assert {spec.precision for spec in propose(learned, plain)} == {"fp32", "int8"}
    with pytest.raises(ValueError, match=r"backends must be among .* got \['tvm'\]"):
        propose(learned, device, ("tvm",))


def test_engines_that_cannot_are_left_out(
    device: DeviceFingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = capture(nn.Linear(4, 4).bfloat16(), (noise(1, 4).bfloat16(),))
    assert [spec.backend for spec in propose(small, device)] == ["aoti"]
    assert unavailable("openvino", small) == "it has no bfloat16, the dtype of input"
    monkeypatch.setattr(AotiBackend, "unavailable", lambda self: "no C++ compiler")
    assert propose(small, device) == ()
    assert unavailable("aoti", small) == "no C++ compiler"


def test_nothing_is_proposed_without_a_program(device: DeviceFingerprint) -> None:
    none = capture(Wrapped(lambda m, x: x + torch.rand_like(x)).eval(), (noise(1, 4),))
    assert propose(none, device) == ()
