"""How much faster a MiniLM-L6 gets that was distilled into a part of itself, and at what quality?

Two tiers: 1.5 times as fast at 99 % of the original's quality, 2.5 times at 97 %, on STS-B
(Spearman) and SST-2 (linear probe); the lower end of a paired bootstrap within half a point. Beside
them the uniform slice of equal latency, trained along with them, and the first three layers as they
are. Speed is at equal precision and engine: ONNX Runtime, fp32, one thread, taken in turn.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Figure, interleaved, publish
from benchmarks.minilm_sessions import Session, embeddings, session_of
from benchmarks.minilm_tasks import Task, Texts, read, shares
from evolve.demo import minilm
from evolve.evolution.anchors import Engine, anchors, timed
from evolve.evolution.choice import Bounds, Choice
from evolve.evolution.genomes import genomes_of
from evolve.evolution.latency import fitted
from policies.strategic import StrategicSearch
from profiler.shapes import Shape
from supernet.capture.subject import capture
from supernet.distillation.batches import Corpus, batched
from supernet.distillation.pipeline import Improved, PipelineConfig, improve
from supernet.distillation.result import Distilled
from supernet.distillation.settings import DistillConfig
from supernet.elastic.extracted import Subnet
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet

TIERS = ((1.5, 99.0), (2.5, 97.0))  # times as fast, percent of the original's quality
SLACK = 0.5  # points that the lower end of the interval may be below
MEASURED = 512  # sub-networks that the search may score in the time that it has
MARGIN = 1.03  # by which a candidate's predicted latency must be better than asked for
SHAPES = ((1, 16), (1, 32), (8, 32), (8, 64))
ROWS, LONGEST, HELD_OUT = 32, 64, 16
SHORT_HELD_OUT, SHORT_PROBE = 8, 2  # batches, below half an hour
PIPELINE = 0.8  # of the minutes; the rest is for capture, evaluation and latency
JUDGED_PER_MINUTE = 100  # rows of each task, below half an hour


def main(arguments: Sequence[str] = ()) -> int:
    """Runs it, prints and saves the figures; 0 also where there is no data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks evolve_minilm")
    parser.add_argument("--minutes", type=float, default=60.0, help="of all seeds together")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args(list(arguments))
    if not asked.minutes > 0 or asked.seeds < 1:
        parser.error(f"--minutes must be positive and --seeds at least 1, got {asked}")
    data = Path(os.environ.get("EVOLVE_DATA", ""))
    if not (data / "text" / "sst2_train.tsv").exists():
        print("skipped: EVOLVE_DATA must be a folder with text/stsb_* and text/sst2_*")
        return 0
    rows: dict[str, Any] = {}
    details = []
    for seed in range(asked.seeds):
        found, detail = _run(data, asked.minutes / asked.seeds, seed)
        mark = f"seed {seed}: " if asked.seeds > 1 else ""
        rows |= {f"{mark}{name}": value for name, value in found.items()}
        details.append(detail)
    publish(
        "evolve_minilm", "A MiniLM-L6 distilled into a part of itself: speed and quality", rows,
        minutes=asked.minutes, seeds=asked.seeds, shapes=SHAPES, details=details,
    )  # fmt: skip
    return 0


def _run(data: Path, minutes: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    began_s = time.monotonic()

    def say(words: str) -> None:
        print(f"{(time.monotonic() - began_s) / 60:5.1f} min  {words}", flush=True)

    torch.manual_seed(seed)
    most = None if minutes >= 30 else int(JUDGED_PER_MINUTE * minutes)
    texts = read(data, most=most, seed=seed)
    model, tokenizer = minilm.load()
    learned = capture(model, minilm.tokenize(tokenizer, list(texts.corpus[:64])))
    net = Supernet.of(learned)
    held_out = HELD_OUT if most is None else SHORT_HELD_OUT
    corpus = _corpus(net, tokenizer, texts, held_out, seed)
    say(f"{len(texts.corpus)} sentences to learn from, model captured")
    with TemporaryDirectory() as folder:
        choice = _choice(net, corpus, seed)
        config = PipelineConfig(
            budget_s=60 * minutes * PIPELINE,
            probe_batches=held_out // 2 if most is None else SHORT_PROBE,
            distill=DistillConfig(
                local_steps=100_000, global_steps=100_000, seed=seed, memory_mib=3072, judged=4,
                kinds=("embedding", "ignored"),  # the pooler's output is not what users take
            ),
        )  # fmt: skip
        improved = improve(net, corpus, choice, config, say=say)
        say("evaluation")
        rows = _evaluated(net, improved, choice, texts, tokenizer, Path(folder), seed)
    say("done")
    rows["minutes taken"] = (time.monotonic() - began_s) / 60
    return rows, _detail(improved, choice, texts)


def _corpus(net: Supernet, tokenizer: Any, texts: Texts, held_out: int, seed: int) -> Corpus:
    given = tokenizer(list(texts.corpus), truncation=True, max_length=LONGEST)["input_ids"]
    examples = []
    for ids in given:
        one = torch.tensor([ids])
        examples.append((one, torch.zeros_like(one), torch.ones_like(one)))
    batches = batched(net.signature, examples, ROWS)
    return Corpus.of(batches, held_out / len(batches), seed)


def _choice(net: Supernet, corpus: Corpus, seed: int) -> Choice:
    """A chooser whose latencies are fitted to those of a few, on ONNX Runtime."""
    genomes = genomes_of(net.space)
    shapes = [Shape(*shape) for shape in SHAPES]
    example = corpus.training[0].inputs
    timings = timed(net, anchors(net, genomes), shapes, example, Engine("onnxruntime"))
    latency = fitted(net, timings, dict.fromkeys(shapes, 1.0))
    aim = Bounds(tuple(ratio * MARGIN for ratio, _ in TIERS))
    search = StrategicSearch(genomes.space, seed=seed, weights="local")
    return Choice(genomes, latency, aim, search, MEASURED)


def _first(net: Supernet, count: int) -> SubnetSpec:
    spec = net.full
    for layer in net.full.layers[count:]:
        spec = spec.replace(layer.name, skipped=True)
    return spec.canonical()


def _milliseconds(
    sessions: Mapping[str, Session], repeats: int
) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Of each session, for every shape, so many times taken in turn."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in sessions}
    for rows, tokens in SHAPES:
        ids = np.full((rows, tokens), 2000, dtype=np.int64)
        given = (ids, np.zeros_like(ids), np.ones_like(ids))
        calls = {n: (lambda s=s, given=given: s.run(given)) for n, s in sessions.items()}
        for name, times in interleaved(calls, repeats, warm=3).items():
            found[name].append(times / 1e3)
    return found


def _evaluated(
    net: Supernet, improved: Improved, choice: Choice, texts: Texts, tokenizer: Any, folder: Path,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    rows: dict[str, Any] = {}
    subnets: dict[str, Subnet] = {"original": net.extract(net.full)}
    for index, (tier, one) in enumerate(zip(improved.tiers, choice.slices, strict=False), 1):
        made = tier.net.extract(tier.spec)
        made.save(folder / f"tier{index}")
        subnets[f"tier {index}"] = Subnet.load(folder / f"tier{index}")
        rows[f"tier {index}: reloaded, largest difference"] = _difference(
            made, subnets[f"tier {index}"]
        )
        subnets[f"uniform slice {index}"] = improved.net.extract(one)
    subnets["first three layers"] = net.extract(_first(net, 3))
    sessions = {n: session_of(s, folder / n.replace(" ", "-")) for n, s in subnets.items()}
    rows |= _speeds(_milliseconds(sessions, repeats=40))
    for task in texts.tasks:
        rows |= _quality(task, sessions, tokenizer, seed)
    return rows


def _difference(one: Subnet, other: Subnet) -> float:
    ids = torch.full((2, 9), 2000)
    given = (ids, torch.zeros_like(ids), torch.ones_like(ids))
    with torch.no_grad():
        pairs = zip(one.module(*given), other.module(*given), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)


def _speeds(times_ms: Mapping[str, list[np.ndarray[Any, Any]]]) -> dict[str, Any]:
    """Times as fast as the original: over shapes the geometric mean of medians of ratios."""
    rows: dict[str, Any] = {}
    for name, own in times_ms.items():
        if name == "original":
            continue
        pairs = zip(times_ms["original"], own, strict=True)
        ratios = [float(np.median(whole / part)) for whole, part in pairs]
        ratio = math.exp(float(np.mean(np.log(ratios))))
        bound = _target(name, 0)
        rows[f"{name}: times as fast"] = Figure(ratio, bound, at_most=False) if bound else ratio
    return rows


def _target(name: str, which: int) -> float | None:
    """What a tier promises; None for what it is compared with."""
    return TIERS[int(name.split()[1]) - 1][which] if name.startswith("tier") else None


def _quality(
    task: Task, sessions: Mapping[str, Session], tokenizer: Any, seed: int
) -> dict[str, Any]:
    outcomes = {name: task.outcomes(embeddings(session, tokenizer, task.sentences))
                for name, session in sessions.items()}  # fmt: skip
    every = np.arange(len(task.pairs))
    rows: dict[str, Any] = {
        f"{task.name}: rows": len(every),
        f"{task.name}: original": task.score(outcomes["original"], every),
    }
    for name, own in outcomes.items():
        if name == "original":
            continue
        found = shares(task, outcomes["original"], own, seed)
        promised = _target(name, 1)
        label = f"{name}: {task.name}, % of the original"
        if promised is None:
            rows[label], rows[f"{label}, lower end"] = found.value, found.lower
        else:
            rows[label] = Figure(found.value, promised, at_most=False)
            rows[f"{label}, lower end"] = Figure(found.lower, promised - SLACK, at_most=False)
    return rows


def _detail(improved: Improved, choice: Choice, texts: Texts) -> dict[str, Any]:
    return {
        "sources": texts.sources,
        "search": choice.found,
        "evaluated": len(choice.search.evaluations()),
        "candidates": [spec.to_json() for spec in improved.candidates],
        "local": _told(improved.local),
        "together": _told(improved.together),
        "tiers": [{"spec": t.spec.to_json(), **_told(t.distilled)} for t in improved.tiers],
        "slices": [spec.to_json() for spec in choice.slices],
    }


def _told(distilled: Distilled | None) -> dict[str, Any]:
    return {} if distilled is None else distilled.to_json()
