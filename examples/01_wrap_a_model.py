"""Serve a model through evolve: calls, futures, asyncio, and a look inside."""

import asyncio

import torch

import evolve

model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).eval()
# Only ONNX Runtime here, to build one plan instead of five; leave `backends` out to try them all.
config = evolve.Config().replace(
    plans={"backends": ("onnxruntime",), "precisions": ("fp32",), "cache_dir": "cache"}
)

slo = evolve.SLO(p99_ms=200)

with evolve.wrap(model, (torch.randn(1, 16),), slo=slo, config=config) as runtime:
    # The original model answers at once, while the plan is built, verified and measured.
    print("first answer:", runtime(torch.ones(2, 16)).shape)
    runtime.wait_for_plans(timeout_s=120)
    for plan in runtime.plans():
        print(f"{plan.key}: {plan.state.value}, {plan.reason}")

    futures = [runtime.submit(torch.randn(1, 16)) for _ in range(20)]
    print("answers:", len([future.result() for future in futures]))

    async def two() -> list[torch.Tensor]:
        return await asyncio.gather(*(runtime.asubmit(torch.randn(1, 16)) for _ in range(2)))

    print("from asyncio:", len(asyncio.run(two())))
    print("rows by plan:", runtime.status()["rows_by_plan"])
    for decision in runtime.decisions(last=5):
        print(decision.seq, decision.kind, decision.subject, decision.reason)
