"""From a fresh process to the first answer: the first and the second start of one model.

Each start is a process of its own that reports, in seconds from its own start: when `wrap`
returned, when the first request was answered (and by what), and when a plan answered first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import publish

SECOND_STARTS = 5


def child(cache: Path) -> dict[str, Any]:
    """One start, in this process; run by `main` through `python -m benchmarks.start CACHE`."""
    import psutil

    import evolve
    from evolve.demo import minilm

    born_s = psutil.Process().create_time()
    model, tokenizer = minilm.load()
    examples = minilm.tokenize(tokenizer, ["word " * n for n in (3, 8, 20, 45)])
    loaded_s = time.time() - born_s
    config = evolve.Config().replace(workers={"kind": "process"}, plans={"cache_dir": cache})
    with evolve.wrap(model, examples, slo=evolve.SLO(p99_ms=2000.0), config=config) as runtime:
        wrapped_s = time.time() - born_s
        runtime(**examples[0])
        answered_s = time.time() - born_s
        first_by = next(iter(runtime.status()["rows_by_plan"]))
        while set(runtime.status()["rows_by_plan"]) == {"original"} and time.time() < born_s + 300:
            runtime(**examples[0])
        by_plan_s = time.time() - born_s
        runtime.wait_for_plans()
        all_plans_s = time.time() - born_s
    return {
        "model loaded s": loaded_s,
        "wrap returned s": wrapped_s,
        "first request answered s": answered_s,
        "first answered by": first_by,
        "first answered by a plan s": by_plan_s,
        "all plans tried s": all_plans_s,
    }


def start(cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.start", str(cache)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        first = start(cache)
        seconds = [start(cache) for _ in range(SECOND_STARTS)]
    rows: dict[str, Any] = {f"first start: {key}": value for key, value in first.items()}
    for key in first:
        values = [second[key] for second in seconds]
        rows[f"second start: {key}"] = (
            values[0] if isinstance(values[0], str) else float(np.median(values))
        )
    publish(
        "start", "Process start to first answer (target: second start < 10 s)",
        rows, repeats=SECOND_STARTS,
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(child(Path(sys.argv[1]))))
    else:
        main()
