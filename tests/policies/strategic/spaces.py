"""Spaces and objectives that the tests of the strategic search share."""

from __future__ import annotations

from collections.abc import Iterable

from policies.strategic import Evaluation, Gene, Genome, Objectives, Rule, Space

LAYERS = Space([Gene(f"{i}.layer", ("skip", "half", "full"), "layer") for i in range(4)])
"""81 genomes, no rules."""


def transformer(layers: int = 2) -> Space:
    """Attention, heads and FFN of each layer; no attention and no heads are the same."""
    genes, rules = [], []
    for i in range(layers):
        genes += [
            Gene(f"{i}.attention", ("none", "linear", "softmax"), "attention"),
            Gene(f"{i}.heads", (0, 6, 12), "heads"),
            Gene(f"{i}.ffn", (0.0, 0.5, 1.0), "ffn"),
        ]
        rules += [
            Rule(f"{i}.attention", "none", (f"{i}.heads",)),
            Rule(f"{i}.heads", 0, (f"{i}.attention",)),
        ]
    return Space(genes, rules)


def objectives(genome: Genome) -> Objectives:
    """Loss with an interaction of the first two genes, latency and memory by the genes' sum."""
    loss = sum(0.02 * i * (2 - gene) for i, gene in enumerate(genome, start=1))
    loss += 0.1 * (genome[0] == 0) * (genome[1] == 0)
    return Objectives(loss, 1.0 + sum(genome) + 0.1 * genome[0], 40.0 + 7.0 * sum(genome))


def measured(genomes: Iterable[Genome], weights: str = "original") -> list[Evaluation]:
    return [Evaluation(genome, objectives(genome), weights) for genome in genomes]
