"""One step of distillation at a time: the shared weights, their optimiser, what they learn from."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supernet.distillation.batches import real
from supernet.distillation.learning.graphs import LayerGraph, layer_graph
from supernet.distillation.learning.losses import (
    Kind,
    block_loss,
    embedding_loss,
    kinds_of,
    logits_loss,
    looked_up,
)
from supernet.distillation.learning.sampling import Draws
from supernet.distillation.learning.teacher import Teacher
from supernet.distillation.settings import DistillConfig, Phase
from supernet.elastic.subnet import LayerSpec
from supernet.elastic.supernet import Supernet

__all__ = ["Trainer"]

_NUMBER: Mapping[Phase, int] = {"local": 1, "global": 2}  # of a phase in the seed of its steps


class Trainer:
    """Trains one set of weights; all that chance decides in a step follows from seed and step.

    So that a training goes on from weights, the optimiser's tensors and a number, whatever a
    generator did before.
    """

    def __init__(self, net: Supernet, teacher: Teacher, draws: Draws, config: DistillConfig):
        self._net, self._teacher, self._draws, self._config = net, teacher, draws, config
        self.kinds: tuple[Kind, ...] = config.kinds or kinds_of(net)
        if len(self.kinds) != len(net.signature.outputs):
            raise ValueError(
                f"kinds must be one for each of {len(net.signature.outputs)} outputs, "
                f"got {self.kinds}"
            )
        self._spread = teacher.spread
        self.elastic = net.elastic()
        still = () if config.train_embeddings else looked_up(net)
        for name, weight in self.elastic.named_parameters():
            weight.requires_grad_(weight.is_floating_point() and name not in still)
        self._weights: dict[str, Tensor] = {
            **dict(self.elastic.named_parameters(remove_duplicate=False)),
            **dict(self.elastic.named_buffers(remove_duplicate=False)),
        }
        self._layer: Callable[[LayerSpec], LayerGraph] = functools.lru_cache(maxsize=256)(
            lambda own: layer_graph(net, own)
        )
        self._order: tuple[tuple[int, int], np.ndarray[Any, Any]] | None = None

    def begin(self, phase: Phase) -> None:
        """A fresh optimiser for a phase."""
        self.optimiser = torch.optim.AdamW(
            self.trained().values(), lr=0.0, weight_decay=self._config.weight_decay
        )
        if phase == "global":
            self._teacher.forget_layers()

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return {n: w for n, w in self.elastic.named_parameters() if w.requires_grad}

    @functools.cached_property
    def learning_layers(self) -> tuple[str, ...]:
        """The layers that can learn by themselves: a stream runs around them, and some of the
        sub-networks have them narrowed."""
        rng = np.random.default_rng(0)
        full = self._net.full
        return tuple(
            name
            for name in self._teacher.layers
            if set(self._draws.variants(name, rng, 1)) - {full.layer(name)}
        )

    def step(self, phase: Phase, step: int, rate: float) -> float:
        """The loss before the step; NaN where that or a gradient is not finite: nothing moves."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([self._config.seed, _NUMBER[phase], step])
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._local(step, rng) if phase == "local" else self._global(step, rng)
        learning = [w for w in self.trained().values() if w.grad is not None]
        size = nn.utils.clip_grad_norm_(learning, self._config.clip)
        if not math.isfinite(loss) or not bool(torch.isfinite(size)):
            return math.nan
        self.optimiser.step()
        return loss

    def _local(self, step: int, rng: np.random.Generator) -> float:
        """One layer, a few of its forms, on what the original gives it."""
        layers = self.learning_layers
        index = self._batch("local", step // len(layers))
        name = layers[step % len(layers)]
        values = self._teacher.layer(index, name)
        inputs = self._teacher.batches[index].inputs
        total = 0.0
        for own in self._draws.variants(name, rng, self._config.random_specs):
            got = self._layer(own)(self._weights, values.entering, inputs)
            loss = block_loss(got, values.leaving, values.mask)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _global(self, step: int, rng: np.random.Generator) -> float:
        """The sandwich: the gradients of all its sub-networks add up."""
        index = self._batch("global", step)
        batch, want = self._teacher.batches[index], self._teacher.answers(index)
        total = 0.0
        for spec in self._draws.sandwich(rng, self._config.random_specs):
            loss = self._loss(self.elastic(spec, *batch.inputs), want, batch.lengths)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _loss(
        self, got: tuple[Tensor, ...], want: tuple[Tensor, ...], lengths: Tensor | None
    ) -> Tensor:
        losses, settings = [], self._config.loss
        for i, (kind, spec) in enumerate(zip(self.kinds, self._net.signature.outputs, strict=True)):
            if kind == "ignored":
                continue
            mask, length = real(lengths, spec.dims, want[i].shape), spec.axis("length")
            if kind == "logits":
                loss = logits_loss(got[i], want[i], settings, mask=mask, length=length)
            elif kind == "features":
                loss = block_loss(got[i], want[i], mask)
            else:
                spread = self._spread[i]
                loss = embedding_loss(got[i], want[i], spread, settings, mask=mask, length=length)
            losses.append(loss)
        if not losses:
            raise ValueError(f"kinds must name an output that is not ignored, got {self.kinds}")
        return torch.stack(losses).sum()

    def _batch(self, phase: Phase, turn: int) -> int:
        """The batch of a turn: all of them in a new order, again and again."""
        count = len(self._teacher.batches)
        epoch, place = divmod(turn, count)
        key = (_NUMBER[phase], epoch)
        if self._order is None or self._order[0] != key:
            rng = np.random.default_rng([self._config.seed, 10 + key[0], epoch])
            self._order = key, rng.permutation(count)
        return int(self._order[1][place])
