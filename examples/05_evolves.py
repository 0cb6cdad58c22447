"""A model that is served evolves: with consent it finds, trains and serves a smaller one."""

import time

import torch

import evolve
from evolve.journal.explain import explain
from evolve.journal.journal import read


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(64, 2048), torch.nn.Linear(2048, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.down(torch.relu(self.up(x)))


model = torch.nn.Sequential(*(Layer() for _ in range(4)), torch.nn.Linear(64, 8)).eval()

# min_quality below 1 is the consent. Every 5 s only to be watched: the default is every 5 minutes.
slo = evolve.SLO(p99_ms=25, min_quality=0.9)
config = evolve.Config().replace(
    plans={"backends": ("eager",), "cache_dir": "cache"}, rollout={"samples": 16},
    journal={"path": "journal.jsonl"},
    evolution={"every_s": 5, "budget_s": 3, "most_tiers": 1},
)  # fmt: skip


def burst(runtime: evolve.Runtime) -> dict[str, int]:
    """More at once than the model can answer in time; who answered how many."""
    futures = [runtime.submit(torch.randn(1, 64)) for _ in range(400)]
    by: dict[str, int] = {}
    for future in futures:
        refused = future.exception() is not None
        name = "refused" if refused else future.served_by.subnet or "the model"
        by[name] = by.get(name, 0) + 1
    return by


with evolve.wrap(model, (torch.randn(4, 64),), slo=slo, config=config) as runtime:
    runtime.wait_for_plans(timeout_s=120)
    print("at first:", burst(runtime))
    stage, until_s = "", time.monotonic() + 45
    while time.monotonic() < until_s:
        by = burst(runtime)
        time.sleep(1.0)  # a generation goes on while nobody is served
        states = {tier.name: tier.state for tier in runtime.tiers()}
        if (now := f"{runtime.status()['evolution']['stage']} {states}") != stage:
            print(now)
            stage = now
        if "full" in states.values() and by.keys() & states.keys():
            break
    print("at last:", by)
    print("the last generation:", runtime.status()["evolution"]["last"])

# What each generation saw, chose and why is in the journal: `evolve log journal.jsonl --explain N`.
adopted = [d for d in read("journal.jsonl") if d.kind == "generation" and d.after.get("front")]
for decision in adopted[:1]:
    print(explain(decision))
