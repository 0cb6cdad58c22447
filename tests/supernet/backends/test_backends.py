"""Every backend gives the original's answers for models of many kinds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from supernet.backends.base import ABOUT, BACKENDS, LoadedPlan, backend, load_plan
from supernet.capture.subject import Capture, capture
from supernet.errors import BuildFailed
from supernet.fidelity import error
from supernet.plans import PlanSpec
from tests.supernet.contract import MemorySource, make_spec, run
from tests.supernet.models import Attention, Causal, Wrapped, ids, noise, seeded, text

ROOT = Path(__file__).resolve().parents[3]

MODELS: dict[str, Callable[[], Capture]] = {
    "encoder": lambda: capture(seeded(Attention), [text(1, 5), text(1, 9)], max_rows=4),
    "tied decoder": lambda: capture(seeded(Causal), [(ids(1, 5),), (ids(1, 9),)], max_rows=4),
    "convolutions": lambda: capture(
        seeded(
            lambda: nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                nn.Flatten(), nn.Linear(4, 3),
            )
        ),
        (noise(1, 3, 8, 8),), max_rows=4,
    ),
    "integers and a constant": lambda: capture(
        seeded(
            lambda: Wrapped(
                lambda m, x, k: (m.a(x).argmax(-1), x[:, :2] > 0, m.a.weight, k + 1),
                a=nn.Linear(8, 5),
            )
        ),
        (noise(1, 8), ids(1, 3)), max_rows=4,
    ),
    "a scalar": lambda: capture(
        seeded(lambda: Wrapped(lambda m, x: m.a(x).sum(), a=nn.Linear(8, 5))), (noise(2, 8),)
    ),
}  # fmt: skip
ENGINES = ("eager", "fused", "onnxruntime", "openvino")

Built = tuple[Capture, PlanSpec, Path]


def _build(learned: Capture, name: str, folder: Path, precision: str = "fp32") -> Built:
    engine = backend(name)
    if (why := engine.unavailable()) is not None:
        pytest.skip(why)
    assert engine.supports(learned.signature) is None
    spec = make_spec(learned, name, precision)
    out = folder / f"{name}-{precision}"
    out.mkdir()
    engine.build(MemorySource(learned, folder), spec, out)
    return learned, spec, out


@pytest.fixture(scope="module", params=MODELS)
def learned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Capture, Path]:
    return MODELS[request.param](), tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module", params=ENGINES)
def built(request: pytest.FixtureRequest, learned: tuple[Capture, Path]) -> Built:
    return _build(learned[0], request.param, learned[1])


@pytest.fixture
def plan(built: Built) -> Iterator[LoadedPlan]:
    loaded = load_plan(built[2], built[1])
    yield loaded
    loaded.close()


class TestPlanContract:
    def test_answers_are_the_originals(self, built: Built, plan: LoadedPlan) -> None:
        references = built[0].references
        assert references
        for reference in references:
            got = run(plan, reference.inputs)
            assert error("relative_l2", got, reference.outputs) < 1e-5, reference.shape

    def test_answers_are_not_overwritten_by_later_ones(
        self, built: Built, plan: LoadedPlan
    ) -> None:
        reference = built[0].references[0]
        first = run(plan, reference.inputs)
        changed = [t * 0 if t.is_floating_point() else t for t in reference.inputs]
        run(plan, changed)
        assert error("relative_l2", first, reference.outputs) < 1e-5

    def test_inputs_are_left_alone(self, built: Built, plan: LoadedPlan) -> None:
        inputs = [tensor.clone() for tensor in built[0].references[0].inputs]
        run(plan, inputs)
        for kept, given in zip(inputs, built[0].references[0].inputs, strict=True):
            assert torch.equal(kept, given)

    def test_a_closed_plan_says_so(self, built: Built) -> None:
        plan = load_plan(built[2], built[1])
        plan.close()
        plan.close()
        with pytest.raises(ValueError, match="plan must be open to run, got a closed one"):
            run(plan, built[0].references[0].inputs)

    def test_a_wrong_number_of_inputs_is_an_error(self, built: Built, plan: LoadedPlan) -> None:
        inputs = built[0].references[0].inputs
        for wrong in ([*inputs, inputs[0]], inputs[:-1]):
            with pytest.raises(ValueError, match=f"inputs must number {len(inputs)}, got"):
                run(plan, wrong)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Capture, Path]:
    return MODELS["tied decoder"](), tmp_path_factory.mktemp("decoder")


def test_aoti_gives_the_originals_answers(decoder: tuple[Capture, Path]) -> None:
    learned, spec, out = _build(decoder[0], "aoti", decoder[1])
    plan = load_plan(out, spec)
    outputs = [run(plan, reference.inputs) for reference in learned.references]
    for got, reference in zip(outputs, learned.references, strict=True):
        assert error("relative_l2", got, reference.outputs) < 1e-5, reference.shape
    plan.close()
    with pytest.raises(ValueError, match="plan must be open"):
        run(plan, learned.references[0].inputs)


def test_aoti_packs_its_weights_and_takes_them_as_they_are_where_that_fails(
    decoder: tuple[Capture, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packed").mkdir()
    *_, out = _build(decoder[0], "aoti", tmp_path / "packed")
    assert (out / ABOUT).read_text() == "one library, its weights packed for oneDNN"
    monkeypatch.setattr("supernet.backends.aoti._FROZEN", {"no such option": True})
    learned, spec, out = _build(decoder[0], "aoti", tmp_path)
    assert (out / ABOUT).read_text() == "one library, its weights as they are"
    reference = learned.references[0]
    got = run(load_plan(out, spec), reference.inputs)
    assert error("relative_l2", got, reference.outputs) < 1e-5


def test_int8_is_close_but_not_the_same(decoder: tuple[Capture, Path]) -> None:
    learned, spec, out = _build(decoder[0], "onnxruntime", decoder[1], "int8")
    plan = load_plan(out, spec)
    reference = learned.references[0]
    assert 1e-6 < error("relative_l2", run(plan, reference.inputs), reference.outputs) < 0.2


@pytest.mark.parametrize(
    ("model", "example", "products"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), noise(2, 8), 2),
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                nn.Linear(32, 20),
            ),
            noise(2, 3, 8, 8), 1,
        ),
        (lambda: nn.Linear(8, 16, bias=False), noise(2, 8), 1),
        (lambda: Wrapped(lambda m, x: m.a(m.a(x)), a=nn.Linear(16, 16)), noise(2, 16), 2),
        (
            lambda: Wrapped(
                lambda m, x: m.a(x @ m.a.weight), a=nn.Linear(16, 16)
            ),
            noise(2, 16), 2,
        ),
    ],
)  # fmt: skip
def test_int8_of_two_dimensions_is_built_and_close(
    model: Callable[[], nn.Module], example: torch.Tensor, products: int, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    learned, spec, out = _build(
        capture(seeded(model), (example,), max_rows=4), "onnxruntime", tmp_path, "int8"
    )
    nodes = [node.op_type for node in onnx.load(str(out / "model.onnx")).graph.node]
    assert nodes.count("MatMulInteger") == products
    assert "Gemm" not in nodes
    plan = load_plan(out, spec)
    for reference in learned.references:
        off = error("relative_l2", run(plan, reference.inputs), reference.outputs)
        assert 1e-6 < off < 0.02, reference.shape


@pytest.mark.parametrize("loud", [1.0, 1e3, 1e6])
def test_int8_answers_each_row_as_if_it_were_alone(loud: float, tmp_path: Path) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    _, spec, out = _build(capture(model, (noise(2, 8),)), "onnxruntime", tmp_path, "int8")
    plan = load_plan(out, spec)
    rows = torch.cat([noise(3, 8), loud * torch.ones(1, 8)])
    (together,) = run(plan, [rows])
    alone = [run(plan, [row[None]])[0] for row in rows]
    assert np.array_equal(np.concatenate(alone), together)


def test_int8_without_products_to_quantise_is_refused(tmp_path: Path) -> None:
    learned = capture(Wrapped(lambda m, x: x * 2 + 1), (noise(1, 8),))
    with pytest.raises(BuildFailed, match="nothing to quantise"):
        _build(learned, "onnxruntime", tmp_path, "int8")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_loading_and_running_needs_no_torch(decoder: tuple[Capture, Path], name: str) -> None:
    folder = decoder[1] / name
    folder.mkdir()
    learned, spec, out = _build(decoder[0], name, folder)
    want = [tuple(output.shape) for output in learned.references[0].outputs]
    code = (
        "import sys, json, numpy as np\n"
        "from pathlib import Path\n"
        "from supernet import PlanSpec, load_plan\n"
        "plan = load_plan(Path(sys.argv[1]), PlanSpec.from_json(json.loads(sys.argv[2])))\n"
        "print([o.shape for o in plan.run([np.full((1, 5), 3, np.int64)])])\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers')]\n"
    )
    import json

    done = subprocess.run(
        [sys.executable, "-c", code, str(out), json.dumps(spec.to_json())],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(want)


def test_importing_the_package_needs_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, supernet\n"
        "supernet.PlanSpec, supernet.load_plan, supernet.build_plan, supernet.ArtifactCache\n"
        "supernet.propose, supernet.Signature, supernet.judge\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'transformers', 'numba'}\n"
        "print(sorted(heavy & {m.split('.')[0] for m in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import supernet

    for name in supernet.__all__:
        assert getattr(supernet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        supernet.Nonsense  # noqa: B018


def test_precisions_follow_the_instruction_sets() -> None:
    engine = backend("openvino")
    assert engine.precisions("x86_64-avx2") == ("fp32",)
    assert engine.precisions("x86_64-avx512f-avx512_bf16") == ("fp32", "bf16")
    assert engine.precisions("x86_64-amx_bf16") == ("fp32", "bf16")


def test_engines_of_numpy_arrays_say_which_tensors_they_cannot_take() -> None:
    signature = capture(nn.Linear(4, 4).bfloat16(), (noise(1, 4).bfloat16(),)).signature
    for name in ("onnxruntime", "openvino"):
        assert backend(name).supports(signature) == "it has no bfloat16, the dtype of input"
    assert backend("eager").supports(signature) is None


def test_every_backend_is_complete() -> None:
    for name in BACKENDS:
        engine = backend(name)
        assert engine.name == name
        assert engine.version()
        assert "fp32" in engine.precisions("x86_64")


def test_float64_is_kept(tmp_path: Path) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU()).double())
    learned = capture(model, (noise(1, 8).double(),))
    for name in ("onnxruntime", "openvino"):
        folder = tmp_path / name
        folder.mkdir()
        _, spec, out = _build(learned, name, folder)
        got = run(load_plan(out, spec), learned.references[0].inputs)
        assert got[0].dtype == np.float64
        assert error("relative_l2", got, learned.references[0].outputs) < 1e-6
