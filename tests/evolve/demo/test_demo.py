"""What the demo holds evolve against."""

from __future__ import annotations

from evolve.demo.static import CLEARLY_SLOWER, contenders
from profiler.shapes import Shape
from supernet.plans import Plan, PlanSpec, PlanState

ONE, MANY = Shape(1, 8), Shape(8, 8)


def plan(backend: str, one_ms: float, many_ms: float) -> Plan:
    spec = PlanSpec(
        graph_hash="g", backend=backend, precision="fp32", threads=1, weights_version="w",
        torch_version="2", backend_version="1", isa="x",
    )  # fmt: skip
    return Plan(spec, PlanState.ADMITTED, error=0.0, costs_ms={ONE: one_ms, MANY: many_ms})


def test_a_plan_that_is_never_near_the_fastest_is_no_rival() -> None:
    quick = plan("fused", 1.0, 8.0)
    batches = plan("openvino", 3.0, 4.0)
    near = plan("onnxruntime", CLEARLY_SLOWER, 20.0)
    never = plan("eager", 1.3, 5.1)
    assert contenders([never, quick, batches, near]) == [quick, batches, near]
