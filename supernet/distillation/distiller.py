"""Distillation of a supernet: each layer by itself, then sub-networks as they are.

::

    W₀ (the original) ─► teacher ─┐
    W₁ ─► local ─► global ────────┴─► judged: W₁ before, after local, after global ─► the best stays

What distillation did not improve is thrown away. On a narrow corpus a distilled model can be worse
than the one before, in spite of a loss that falls all the time.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from supernet.distillation.batches import Corpus
from supernet.distillation.judging.judge import Judge
from supernet.distillation.judging.quality import Quality, measure_for
from supernet.distillation.learning.ambition import ambition, check_weights
from supernet.distillation.learning.checkpoint import (
    Checkpoint,
    State,
    identity,
    load,
    save,
    tensors_of,
    to_optimiser,
)
from supernet.distillation.learning.sampling import Draws
from supernet.distillation.learning.teacher import Teacher, Teachers
from supernet.distillation.learning.training import Trainer
from supernet.distillation.reporting import Events
from supernet.distillation.result import Distilled, Ended, Stage, best_of
from supernet.distillation.settings import DistillConfig, Hooks, Phase, Progress
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.supernet import Supernet
from supernet.errors import CheckpointFailed

__all__ = ["distill"]

_BAD = 5  # steps in a row without a finite loss: it does not come back by itself
_SMOOTH = 0.95  # of the running mean of the loss


def distill(
    net: Supernet,
    corpus: Corpus,
    specs: Sequence[SubnetSpec] | None = None,
    config: DistillConfig | None = None,
    *,
    quality: Quality | None = None,
    folder: Path | None = None,
    hooks: Hooks | None = None,
    teachers: Teachers | None = None,
) -> Distilled:
    """Train the supernet's shared weights towards the original, and keep the better ones.

    ``specs``: sub-networks that learn and are judged, None for those of the whole space; one alone
    specialises the weights on it. ``quality``: of a sub-network as a module of flat tensors, higher
    is better; agreement with the original on what ``corpus`` holds out, where none is given or it
    fails on the original. ``folder``: for checkpoints; a training that lies there goes on. Raises
    `CheckpointFailed`, with the result so far, where it cannot be written. ``teachers``: those of
    this corpus, where several distillations share them.
    """
    check_weights(net)
    config = config or DistillConfig()
    teachers = teachers or Teachers.of(net, corpus, config.memory_mib)
    run = _Run(net, teachers.training, specs, config, hooks or Hooks(), folder)
    judge = Judge(
        net, teachers.held_out,
        run.trainer.kinds, run.config.measure or measure_for(run.trainer.kinds, net.signature),
        quality, run.config.quality_limit_s,
    )  # fmt: skip
    failure: OSError | None = None
    try:
        ended = run.train()
    except _Unwritten as unwritten:
        failure, ended = unwritten.error, "not written"
    result = best_of(
        net, run.stages(), judge, run.draws.judged(run.config.seed, run.config.judged),
        seed=run.config.seed, notes=run.notes, ended=ended, steps=run.steps,
        elapsed_s=run.state.elapsed_s,
    )  # fmt: skip
    if failure is not None:
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "no room left on the disk" if full else str(failure)
        raise CheckpointFailed(f"a checkpoint cannot be written to {folder}: {why}", result)
    return result


class _Unwritten(Exception):
    """A checkpoint could not be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Run:
    """A training under way."""

    def __init__(
        self,
        net: Supernet,
        teacher: Teacher,
        specs: Sequence[SubnetSpec] | None,
        config: DistillConfig,
        hooks: Hooks,
        folder: Path | None,
    ) -> None:
        self.net, self.hooks, self._folder = net, hooks, folder
        self.config, self.notes = ambition(net, config, teacher)
        self.draws = Draws.of(net, specs)
        self.trainer = Trainer(net, teacher, self.draws, self.config)
        self.local: dict[str, Tensor] | None = None
        self.state = State()
        self._saved_s = 0.0
        self._events = Events.open(hooks.tensorboard)
        self._of = "" if folder is None else self._identity(teacher, config)
        if not self.trainer.learning_layers:
            self.notes = (*self.notes, "no layer can learn by itself")

    def _identity(self, teacher: Teacher, config: DistillConfig) -> str:
        """What tells this training from any other."""
        inputs = {f"{i}.{j}": tensor for i, batch in enumerate(teacher.batches)
                  for j, tensor in enumerate(batch.inputs)}  # fmt: skip
        weights = {f"weight.{name}": weight for name, weight in self.net.weights.items()}
        keys = [spec.key for spec in self.draws.given]
        return identity({**weights, **inputs}, config.to_json(), keys)

    @property
    def steps(self) -> dict[Phase, int]:
        """So many each phase has had."""
        if self.state.phase == "local":
            return {"local": self.state.step, "global": 0}
        return {"local": self.state.local_steps, "global": self.state.step}

    def stages(self) -> dict[Stage, Mapping[str, Tensor]]:
        """The weights before and after each phase that has had a step."""
        found: dict[Stage, Mapping[str, Tensor]] = {"before": self.net.weights}
        if self.local is not None and self.state.local_steps:
            found["local"] = self.local
        if self.state.step:
            found[self.state.phase] = self.weights
        return found

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.trainer.elastic.weights()

    def train(self) -> Ended:
        """Both phases, from where the folder's checkpoint is; why it ended."""
        self._restore()
        ended: Ended = "done"
        if self.state.phase == "local":
            if self.trainer.learning_layers:
                ended = self._phase()
            if ended in ("stopped", "diverged"):
                return self._end(ended)
            self.local = self.weights
            elapsed_s, steps = self.state.elapsed_s, self.state.step
            self.state = State("global", elapsed_s=elapsed_s, began_s=elapsed_s, local_steps=steps)
            self.trainer.begin("global")
        return self._end(self._phase())

    def _restore(self) -> None:
        found = None if self._folder is None else load(self._folder, self._of)
        self.trainer.begin(self.state.phase if found is None else found.state.phase)
        if found is None:
            return
        self.state, self._saved_s = found.state, found.state.elapsed_s
        self.local = None if found.local is None else dict(found.local)
        self.trainer.elastic.load_state_dict(dict(found.weights))
        to_optimiser(self.trainer.optimiser, self.trainer.trained(), found.optimiser)

    def _end(self, ended: Ended) -> Ended:
        self._save()
        self._events.close()
        return ended

    def _phase(self) -> Ended:
        """Steps of the present phase, to its end or until something else ends it."""
        clock, phase = self.hooks.clock, self.state.phase
        while self.state.step < self.config.steps(phase):
            if self.state.elapsed_s >= self._until_s():
                return "budget"
            if self.hooks.stop():
                return "stopped"
            self.hooks.pause()
            began_s = clock()
            rate = self.config.rate(phase, self._share())
            loss = self.trainer.step(phase, self.state.step, rate)
            self._note(loss, clock() - began_s)
            if self.state.bad >= _BAD:
                return "diverged"
            if self.state.elapsed_s - self._saved_s >= self.config.checkpoint_every_s:
                self._save()
        return "done"

    def _until_s(self) -> float:
        """The training second at which the present phase ends."""
        share = self.config.local_share if self.state.phase == "local" else 1.0
        return self.config.budget_s * share if share else 0.0

    def _share(self) -> float:
        """How much of the phase is done, by steps or by time, whichever is more."""
        state = self.state
        by_steps = (state.step + 1) / self.config.steps(state.phase)
        until_s = self._until_s()
        if math.isinf(until_s):
            return by_steps
        return max(by_steps, (state.elapsed_s - state.began_s) / (until_s - state.began_s))

    def _note(self, loss: float, took_s: float) -> None:
        old = self.state
        bad = old.bad + 1 if math.isnan(loss) else 0
        mean = old.loss
        if not math.isnan(loss):
            mean = loss if mean is None else _SMOOTH * mean + (1 - _SMOOTH) * loss
        self.state = replace(
            old, step=old.step + 1, elapsed_s=old.elapsed_s + took_s, bad=bad, loss=mean
        )
        told = self._progress()
        self._events.scalar(f"loss/{told.phase}", loss, told.step)
        self.hooks.progress(told)

    def _progress(self) -> Progress:
        state, steps = self.state, self.config.steps(self.state.phase)
        each_s = (state.elapsed_s - state.began_s) / max(1, state.step)
        left_s = min(each_s * (steps - state.step), max(0.0, self._until_s() - state.elapsed_s))
        loss = math.nan if state.loss is None else state.loss
        return Progress(state.phase, state.step, steps, loss, state.elapsed_s, left_s)

    def _save(self) -> None:
        self._saved_s = self.state.elapsed_s
        if self._folder is None:
            return
        tensors = tensors_of(self.trainer.optimiser, self.trainer.trained())
        try:
            save(self._folder, Checkpoint(self._of, self.state, self.weights, tensors, self.local))
        except OSError as error:
            self._events.close()
            raise _Unwritten(error) from error
