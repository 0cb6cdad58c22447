"""What does `runtime(x)` add to calling the chosen plan directly, in process?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from benchmarks.harness import Figure, encoder, interleaved, publish, wrapped

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
    """Three in turn: the plan that the runtime chose, on inputs made ready once; the least that a
    caller would have to write around it (pad, run, crop, build the result); the runtime."""
    with wrapped(model, examples) as runtime:
        before = runtime.status()["rows_by_plan"]
        runtime(**call)
        after = runtime.status()["rows_by_plan"]
        (chosen,) = (key for key in after if after[key] != before.get(key, 0))
        # The very plan that the runtime holds: a second copy of the weights would compete for
        # the caches with the first.
        worker = runtime.parts.pool.lanes[0].worker
        assert worker is not None  # thread workers are never replaced
        capture = runtime.parts.serving.capture
        flat = capture.flatten((), call)
        pads = chosen in runtime.parts.serving.scheduler.tables.buckets_only
        length = runtime.grid.lengths[capture.grid.bucket(flat.length)] if pads else flat.length

        def padded() -> list[torch.Tensor]:
            return [
                pad(leaf, (0, length - flat.length)) if "length" in spec.dims else leaf
                for leaf, spec in zip(flat.leaves, capture.signature.inputs, strict=True)
            ]

        def by_hand() -> Any:
            outputs = worker.run(chosen, padded()).leaves
            return capture.rebuild(
                [
                    leaf[:, : flat.length].contiguous() if "length" in spec.dims else leaf
                    for leaf, spec in zip(outputs, capture.signature.outputs, strict=True)
                ]
            )

        ready = padded()
        times = interleaved(
            {
                "direct": lambda: worker.run(chosen, ready),
                # After a plan ran, which leaves nothing of ours in the caches.
                "taken apart": lambda: capture.flatten((), call),
                "by hand": by_hand,
                "taken apart and checked": lambda: capture.check(capture.flatten((), call).leaves),
                "runtime": lambda: runtime(**call),
            },
            REPEATS,
        )
    return {
        f"{name}: plan": chosen,
        **{f"{name}: {how} median µs": float(np.median(us)) for how, us in times.items()},
        f"{name}: added by checks of the inputs, µs": Figure(
            float(np.median(times["taken apart and checked"]) - np.median(times["taken apart"])), 20
        ),
        f"{name}: added to direct, µs": float(np.median(times["runtime"] - times["direct"])),
        f"{name}: added to by hand, µs": float(np.median(times["runtime"] - times["by hand"])),
    }


if __name__ == "__main__":
    main()
