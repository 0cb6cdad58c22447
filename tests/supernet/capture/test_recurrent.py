"""LSTM, GRU and RNN with varying length are captured and served by plans."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet.backends.base import backend
from supernet.capture.recurrent import any_length, shapes_of
from supernet.capture.subject import capture
from supernet.errors import BuildFailed
from supernet.fidelity import error
from supernet.fusion.lowering.subgraphs import pieces_of
from tests.supernet.contract import MemorySource, make_spec, run
from tests.supernet.fusion.lowering.test_pieces import lowered_of
from tests.supernet.models import Wrapped, ids, seeded

LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "both ways": (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
    "projected": (nn.LSTM, {"proj_size": 5}),
    "GRU": (nn.GRU, {"num_layers": 2}),
    "RNN": (nn.RNN, {}),
}


class Tagger(nn.Module):
    """An answer for every word, and one for the text."""

    def __init__(self, kind: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layer = kind(16, 8, batch_first=True, **options)
        wide = options.get("proj_size", 8) * (2 if options.get("bidirectional") else 1)
        self.out = nn.Linear(wide, 3)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        steps, _ = self.layer(self.embed(words))
        return self.out(steps), steps[:, -1]


def tagger(name: str) -> Tagger:
    return seeded(lambda: Tagger(*LAYERS[name]))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", LAYERS)
def test_the_length_is_free_in_the_program(name: str) -> None:
    model = tagger(name)
    learned = capture(model, [(ids(1, 5),), (ids(1, 9),)], max_rows=4)
    assert learned.program is not None, learned.reason
    assert learned.signature.inputs[0].dims == ("rows", "length")
    assert learned.signature.outputs[0].dims == ("rows", "length", 3)
    assert learned.grid.lengths[-1] > 9, "longer texts than the examples are served, too"
    words = ids(3, 31)
    with torch.no_grad():
        for got, want in zip(learned.program.module()(words), model(words), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("LSTM", "onnxruntime"),
        ("LSTM", "fused"),
        ("both ways", "openvino"),
        ("GRU", "onnxruntime"),
        ("GRU", "openvino"),
        ("RNN", "fused"),
    ],
)
def test_engines_answer_at_every_length(name: str, engine: str, tmp_path: Path) -> None:
    learned = capture(tagger(name), [(ids(1, 5),), (ids(1, 9),)], max_rows=4)
    chosen = backend(engine)
    if (why := chosen.unavailable()) is not None:
        pytest.skip(why)
    (out := tmp_path / "plan").mkdir()
    spec = make_spec(learned, engine)
    chosen.build(MemorySource(learned, tmp_path), spec, out)
    plan = chosen.load(out, spec)
    lengths = {reference.shape.length for reference in learned.references}
    assert len(lengths) > 2
    for reference in learned.references:
        off = error("relative_l2", run(plan, reference.inputs), reference.outputs)
        assert off < 1e-4, reference.shape


def test_what_would_unroll_them_is_refused(tmp_path: Path) -> None:
    learned = capture(tagger("GRU"), [(ids(1, 5),), (ids(1, 9),)], max_rows=4)
    with pytest.raises(BuildFailed, match="unrolls recurrent layers"):
        backend("aoti").build(MemorySource(learned, tmp_path), make_spec(learned, "aoti"), tmp_path)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_compiled_pieces_are_what_lies_between(name: str) -> None:
    learned = capture(tagger(name), [(ids(1, 5),), (ids(1, 9),)], max_rows=4)
    lowered = lowered_of(learned)
    inside = [str(node.target) for piece in pieces_of(lowered) for node in piece.nodes]
    assert "aten.embedding.default" in inside
    assert not any(op.startswith(("aten.lstm", "aten.gru")) for op in inside)
    layer = next(n for n in lowered.module.graph.nodes if shapes_of(n.target) is not None)
    assert isinstance(layer.meta["val"][0].shape[1], torch.SymInt), "the length stays free"


@pytest.mark.filterwarnings("ignore")  # torch's own, of tracing
def test_traces_of_other_threads_see_the_layers_arithmetic() -> None:
    layer, x = seeded(lambda: nn.GRU(4, 4, batch_first=True)), torch.ones(2, 3, 4)

    def trace() -> torch.fx.GraphModule:
        with torch.no_grad():
            program = torch.export.export(Wrapped(lambda m, x: m.a(x)[0], a=layer), (x,))
        return program.run_decompositions().module()

    with any_length(), ThreadPoolExecutor(1) as other:
        traced = other.submit(trace).result()
    with torch.no_grad():
        torch.testing.assert_close(traced(x), layer(x)[0])
    assert "aten.gru.input" not in str(traced.graph)


def test_what_runs_meanwhile_and_afterwards_is_as_ever() -> None:
    model, words = tagger("LSTM"), ids(2, 7)
    with torch.no_grad():
        want = model(words)
        kernels = dict(torch.ops.aten.lstm.input.py_kernels)
        with any_length():
            got = model(words)
        for one, other in zip(got, want, strict=True):
            assert torch.equal(one, other)
    assert torch.ops.aten.lstm.input.py_kernels == kernels
