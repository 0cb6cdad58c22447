"""What does `runtime(x)` add to calling the chosen plan directly, in process?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.harness import encoder, interleaved, publish, wrapped

REPEATS = 400


def main() -> None:
    model, examples = encoder()
    shortest = min(examples, key=lambda example: example["input_ids"].numel())
    torch.manual_seed(0)
    small = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    row = {"input": torch.randn(1, 64)}
    rows = {
        **added("encoder", model, examples, shortest),
        **added("small MLP", small.eval(), [row], row),
    }
    publish(
        "overhead", "Median added by runtime(x), in process (target: <= 100 µs)", rows,
        repeats=REPEATS,
    )  # fmt: skip


def added(
    name: str,
    model: torch.nn.Module,
    examples: list[dict[str, torch.Tensor]],
    call: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """Direct calls of the plan that the runtime chose, and calls of the runtime, in turn."""
    with wrapped(model, examples) as runtime:
        before = runtime.status()["rows_by_plan"]
        runtime(**call)
        after = runtime.status()["rows_by_plan"]
        (chosen,) = (key for key in after if after[key] != before.get(key, 0))
        # The very plan that the runtime holds: a second copy of the weights would compete for
        # the caches with the first.
        lane = runtime.parts.fleet.lanes[0]
        length = runtime.grid.lengths[0]
        leaves = [
            torch.nn.functional.pad(leaf, (0, max(0, length - leaf.shape[1])))
            if "length" in spec.dims
            else leaf
            for leaf, spec in zip(
                call.values(), runtime.parts.serving.capture.signature.inputs, strict=True
            )
        ]
        times = interleaved(
            {"direct": lambda: lane.compute(chosen, leaves), "runtime": lambda: runtime(**call)},
            REPEATS,
        )
    return {
        f"{name}: plan": chosen,
        f"{name}: direct median µs": float(np.median(times["direct"])),
        f"{name}: runtime median µs": float(np.median(times["runtime"])),
        f"{name}: added µs": float(np.median(times["runtime"] - times["direct"])),
    }


if __name__ == "__main__":
    main()
