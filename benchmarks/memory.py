"""What serving takes in memory: the plain loop, and a runtime with every plan tried.

Proportional set size: a page that several processes share counts once over all of them. Each
contender has a process of its own, and is read after it served the same sentences and builds have
ended, with what they were copied from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import psutil
import torch

import evolve
from benchmarks.harness import Figure, encoder, publish, wrapped
from evolve.demo import minilm
from evolve.demo.text import sentences
from supernet.jobs.warm import NAME

REQUESTS = 600
# Half of what the same model, plans and two workers took when every worker held its own copy of
# everything and every plan that won at some shape was held: 1619 MiB.
TARGET_MIB = 810.0


def main() -> None:
    plain, ours = _in_its_own_process("plain"), _in_its_own_process("evolve")
    memory = Figure(sum(ours["processes"].values()), TARGET_MIB)
    rows: dict[str, Any] = {
        "plain loop MiB": sum(plain["processes"].values()),
        "evolve MiB": memory,
    }
    rows |= {f"evolve, {name} MiB": mib for name, mib in ours["processes"].items()}
    rows["plans held"] = ", ".join(ours["plans"])
    publish(
        "memory", f"Memory of serving (target: at most {TARGET_MIB:.0f} MiB)", rows,
        requests=REQUESTS,
    )  # fmt: skip


def _in_its_own_process(contender: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", contender],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _serve_plain() -> dict[str, Any]:
    model, _ = encoder()
    with torch.no_grad():
        for request in _requests():
            model(**request)
    return {"processes": _mib_by_process(None)}


def _serve_evolve() -> dict[str, Any]:
    model, examples = encoder()
    with wrapped(model, examples[:24], workers={"kind": "process"}) as runtime:
        for request in _requests():
            runtime(**request)
        while any(process.name() == NAME for process in psutil.Process().children()):
            time.sleep(0.5)
        held = [plan.spec.title for plan in runtime.parts.pool.plans()]
        return {"processes": _mib_by_process(runtime), "plans": held}


def _requests() -> list[dict[str, torch.Tensor]]:
    _, tokenizer = minilm.load()
    return minilm.tokenize(tokenizer, sentences(REQUESTS, seed=0))


def _mib_by_process(runtime: evolve.Runtime | None) -> dict[str, float]:
    me = psutil.Process()
    lanes = runtime.status()["lanes"] if runtime is not None else []
    names = {me.pid: "this process"} | {lane["pid"]: lane["worker"] for lane in lanes}
    found: dict[str, float] = {}
    for process in (me, *me.children(recursive=True)):
        name = names.get(process.pid, f"other ({' '.join(process.cmdline()[2:3])})")
        memory = process.memory_full_info()
        mib = getattr(memory, "pss", memory.uss) / 2**20  # pss: where the system tells (Linux)
        found[name] = found.get(name, 0.0) + mib
    return found


if __name__ == "__main__":
    serve = {"plain": _serve_plain, "evolve": _serve_evolve}[sys.argv[1]]
    print(json.dumps(serve()))
