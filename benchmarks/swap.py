"""Does switching plans under load lose, double or mix up an answer, and what does it cost?"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch

import evolve
from benchmarks.harness import encoder, publish, summary
from evolve.demo.load import Phase, arrivals, drive
from policies.base import Choice
from policies.presets import DEFAULT
from profiler.signals import Signals
from supernet.fidelity import error

SWITCHES = 500
RATE_PER_S = 200.0


class Restless:
    """Another plan at every tick: the worst that a policy could ask for."""

    name = "restless"

    def __init__(self, plans: int) -> None:
        self.plans = plans

    def choose(self, signals: Signals, current: Choice) -> Choice:
        plan = ((current.params.plans or (-1,))[0] + 1) % self.plans
        return Choice(replace(DEFAULT, name=f"only-{plan}", plans=(plan,)), f"plan {plan} in turn")


class Timed:
    """A function, and how long each of its calls took."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.us: list[float] = []

    def __call__(self, *args: Any) -> None:
        began = time.perf_counter()
        self.function(*args)
        self.us.append((time.perf_counter() - began) * 1e6)


def main() -> None:
    model, examples = encoder()
    with torch.no_grad():
        wanted = [model(**example).last_hidden_state for example in examples]
    restless = Restless(1)
    config = evolve.Config().replace(workers={"kind": "process"}, tick_ms=20.0)
    slo = evolve.SLO(p99_ms=2000.0)
    with evolve.wrap(model, examples, slo=slo, config=config, policy=restless) as runtime:
        runtime.wait_for_plans()
        restless.plans = 1 + sum(p.state.may_serve for p in runtime.plans())
        answered: dict[int, int] = {}

        def submit(index: int) -> Future[Any]:
            future = runtime.submit(**examples[index % len(examples)])
            future.add_done_callback(
                lambda _: answered.__setitem__(index, answered.get(index, 0) + 1)
            )
            return future

        controller = runtime.parts.controller
        scheduler = runtime.parts.serving.scheduler
        prepare_us, switch_us = Timed(controller.refresh), Timed(scheduler.use)
        controller.refresh = prepare_us  # type: ignore[method-assign]
        scheduler.use = switch_us  # type: ignore[method-assign]
        before = controller.ticks
        sent_s = arrivals([Phase(SWITCHES * 0.02 * 1.3, RATE_PER_S)], seed=0)
        outcome = drive(submit, sent_s, keep=lambda index: True)
        switches = controller.ticks - before
    prepared, switched = (summary(t.us[-switches:]) for t in (prepare_us, switch_us))
    # Plans may err by so much; the answers to two sentences are two hundred times further apart.
    wrong = sum(
        error("relative_l2", [answer.last_hidden_state], [wanted[index % len(examples)]])
        > slo.max_error
        for index, answer in outcome.kept.items()
    )
    publish(
        "swap", f"{switches} plan switches under {RATE_PER_S:g} requests/s (targets: 0, < 100 µs)",
        {
            "plans in turn": restless.plans,
            "requests": len(sent_s),
            "lost or failed": int(outcome.failed.sum()),
            "refused": int(outcome.refused.sum()),
            "answered twice": sum(count != 1 for count in answered.values()),
            "answers of another request": wrong,
            "tables made ready beside the lanes, median µs": prepared["median"],
            "tables made ready beside the lanes, p99 µs": prepared["p99"],
            "switch median µs": switched["median"],
            "switch p99 µs": switched["p99"],
        },
        switches=switches,
    )  # fmt: skip


if __name__ == "__main__":
    main()
