"""The contenders of `surge` and `capacity`, set up once, on the same machine and stream.

- plain: the PyTorch loop, one request at a time on all cores, with early refusal;
- static: the best fixed setting of evolve's own plans, batches in order of arrival as in common
  servers, found by a sweep in the simulator over the measured costs and then among the best live;
- static, grouped: the same with like lengths grouped, to show what grouping alone is worth;
- evolve: as `evolve.wrap` sets it up by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

import evolve
from evolve.demo import minilm
from evolve.demo.contenders import Figures, Stream, run_plain, run_runtime
from evolve.demo.load import Phase, arrivals
from evolve.demo.plain import PlainLoop
from evolve.demo.static import Layout, StaticSetting, sweep
from evolve.demo.text import sentences
from profiler.fingerprint import fingerprint

SLO = evolve.SLO(p99_ms=50.0, max_error=0.005)
FINALISTS = 3
FAMILIES = (("static", math.inf), ("static, grouped", 1.5))

Contender = Callable[[Stream], Figures]


@dataclass
class Contest:
    """What the two benchmarks need: streams, and contenders by name that run them."""

    model: torch.nn.Module
    requests: list[dict[str, torch.Tensor]]
    plain_per_s: float
    contenders: dict[str, Contender] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def stream(self, rate_per_s: float, seconds: float, seed: int) -> Stream:
        """Steady Poisson load; another seed sends other sentences at other times."""
        sent_s = arrivals([Phase(seconds, rate_per_s)], seed=seed)
        some = [self.requests[(i + 97 * seed) % len(self.requests)] for i in range(len(sent_s))]
        keep_every = max(1, len(sent_s) // 50)
        return Stream(some, sent_s, (0.0, seconds), seconds, SLO.p99_ms, keep_every)


@contextmanager
def contest(trial_of_plain: float, trial_s: float) -> Iterator[Contest]:
    """Everybody ready. Static settings are chosen at `trial_of_plain` × what plain carries."""
    model, tokenizer = minilm.load()
    examples = minilm.tokenize(tokenizer, sentences(24, seed=1))
    loop = PlainLoop(model, examples, length_name="input_ids", slo_ms=SLO.p99_ms)
    loop.close()
    requests = minilm.tokenize(tokenizer, sentences(6000, seed=0))
    made = Contest(model, requests, loop.capacity_per_s)
    with ExitStack() as stack:
        base = evolve.Config().replace(workers={"kind": "process"})

        def serve(config: evolve.Config, **options: Any) -> evolve.Runtime:
            runtime = stack.enter_context(
                evolve.wrap(model, examples, slo=SLO, config=config, **options)
            )
            runtime.wait_for_plans()
            return runtime

        def runs(runtime: evolve.Runtime) -> Contender:
            return lambda load: run_runtime(runtime, model, load, _silent)[0]

        ours = serve(base)
        cores = fingerprint("cpu", measure=False).cores
        wide = serve(base.replace(workers={"count": 1, "threads": cores}))
        layouts = [Layout(cores, 1, _admitted(ours)), Layout(1, cores, _admitted(wide))]
        wide.close()
        made.contenders["plain"] = lambda load: run_plain(model, load, _silent)[0]
        made.contenders["evolve"] = runs(ours)
        trial = made.stream(trial_of_plain * made.plain_per_s, trial_s, seed=100)
        for name, spread in FAMILIES:
            tried = []
            for setting in _finalists(sweep(layouts, ours.grid, trial, spread=spread)):
                runtime = serve(setting.config(base), policy=setting.policy())
                met = runs(runtime)(trial).met_ratio
                Console().print(f"{name}: {setting.describe()}: {met:.1%} met of the trial")
                tried.append((met, setting, runtime))
            best = max(tried, key=lambda item: item[0])
            for _, _, runtime in tried:
                if runtime is not best[2]:
                    runtime.close()
            made.settings[name] = best[1].describe()
            made.contenders[name] = runs(best[2])
        yield made


def _silent(elapsed_s: float) -> None:
    """No progress bar in a benchmark."""


def _admitted(runtime: evolve.Runtime) -> list[Any]:
    return [plan for plan in runtime.plans() if plan.state.may_serve]


def _finalists(found: list[StaticSetting]) -> list[StaticSetting]:
    """The best few that differ."""
    chosen: dict[tuple[Any, ...], StaticSetting] = {}
    for setting in found:
        plan, params = setting.plan, setting.params
        chosen.setdefault((plan.key, params, setting.workers), setting)
    return list(chosen.values())[:FINALISTS]
