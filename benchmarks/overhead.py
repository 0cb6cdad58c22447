"""What does `runtime(x)` add to calling the chosen plan directly, in process?"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import encoder, interleaved, publish, wrapped

REPEATS = 400


def main() -> None:
    model, examples = encoder()
    with wrapped(model, examples) as runtime:
        call = min(examples, key=lambda example: example["input_ids"].numel())
        before = runtime.status()["rows_by_plan"]
        runtime(**call)
        after = runtime.status()["rows_by_plan"]
        (chosen,) = (key for key in after if after[key] != before.get(key, 0))
        # The very plan that the runtime holds: a second copy of the weights would compete for
        # the caches with the first.
        worker = runtime.parts.fleet.lanes[0].worker
        assert worker is not None
        length = runtime.grid.pad(call["input_ids"].shape[1])
        padded = [
            np.pad(leaf.numpy(), ((0, 0), (0, length - leaf.shape[1]))) for leaf in call.values()
        ]
        leaves = [torch.from_numpy(array) for array in padded]
        times = interleaved(
            {"direct": lambda: worker.run(chosen, leaves), "runtime": lambda: runtime(**call)},
            REPEATS,
        )
    added = times["runtime"] - times["direct"]
    publish(
        "overhead", "Median added by runtime(x), in process (target: <= 100 µs)",
        {
            "plan": chosen,
            "direct median µs": float(np.median(times["direct"])),
            "runtime median µs": float(np.median(times["runtime"])),
            "added, median of differences µs": float(np.median(added)),
            "added, difference of medians µs": float(
                np.median(times["runtime"]) - np.median(times["direct"])
            ),
        },
        repeats=REPEATS, tokens=int(call["input_ids"].numel()),
    )  # fmt: skip


if __name__ == "__main__":
    main()
