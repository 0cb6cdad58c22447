"""A sub-network as a quality tier: consent, adoption, rollout, and what an answer came from."""

import time

import torch

import evolve
from supernet.capture.subject import capture
from supernet.elastic.supernet import Supernet


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(64, 1024), torch.nn.Linear(1024, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.down(torch.relu(self.up(x)))


model = torch.nn.Sequential(Layer(), Layer(), torch.nn.Linear(64, 8)).eval()
example = (torch.randn(2, 64),)

# What can be made smaller, and one way to do it: the first of two layers alone.
supernet = Supernet.of(capture(model, example))
for gene in supernet.space.genes:
    print(gene.name, gene.choices)
half = supernet.space.spec({"1.skipped": True})

# Without min_quality the model's architecture is never changed.
slo = evolve.SLO(p99_ms=200, min_quality=0.9, agreement="cosine")
config = evolve.Config().replace(
    plans={"backends": ("eager",), "cache_dir": "cache"}, rollout={"samples": 16}
)
with evolve.wrap(model, example, slo=slo, config=config) as runtime:
    runtime.adopt(half, name="half")  # trained weights would come second
    runtime.wait_for_plans(timeout_s=120)
    (tier,) = runtime.tiers()
    print(f"{tier.name}: {tier.state}, quality {tier.quality:.3f}; {tier.reason}")

    # Copies of requests are tried on it after their answers left; it answers only under load.
    for _ in range(100):
        futures = [runtime.submit(torch.randn(1, 64)) for _ in range(20)]
        answers = [future.result() for future in futures]
        time.sleep(0.02)  # answers are compared when nobody waits
        if runtime.tiers()[0].state != "shadow":
            break
    print("the last answer came from", futures[-1].served_by)
    print("agreement on live inputs:", runtime.status()["tiers"]["half"]["agreement"])
    for decision in runtime.decisions(last=1000):
        if decision.kind == "tier":
            print(decision.after["state"], "–", decision.reason)
    runtime.dismiss("half")
    print("tiers left:", len(runtime.tiers()))
