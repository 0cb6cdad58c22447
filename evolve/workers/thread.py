"""A worker inside this process: the caller's thread computes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from evolve.errors import PlanDeclined, PlanFault, PlanLost
from evolve.workers.base import Answer, Inputs
from supernet.backends.base import check_artifact, load_plan
from supernet.errors import ArtifactBroken, OutsideRange

if TYPE_CHECKING:
    from supernet.backends.base import LoadedPlan
    from supernet.plans import Plan

__all__ = ["ThreadWorker", "run_loaded"]


class ThreadWorker:
    """Holds loaded plans and runs them on whichever thread asks; see `Worker`.

    A native crash of a plan ends the process here: use process workers when serving.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = name
        self._clock = clock
        self._loaded: dict[str, LoadedPlan] = {}
        self._resident: frozenset[str] = frozenset()

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def alive(self) -> bool:
        return True

    @property
    def resident(self) -> frozenset[str]:
        return self._resident

    def load(self, plan: Plan, warm: Sequence[Inputs] = ()) -> None:
        if plan.artifact is None:
            raise PlanFault(f"plan {plan.spec.key} has no artifact to load")
        try:
            check_artifact(plan.artifact, plan.spec)
            loaded = load_plan(plan.artifact, plan.spec, plan.microbatches)
            for inputs in warm:
                zeros = [torch.zeros(shape, dtype=getattr(torch, name)) for name, shape in inputs]
                with contextlib.suppress(OutsideRange):  # zeros need not be like what comes
                    run_loaded(loaded, zeros)
        except Exception as error:
            kind = PlanLost if isinstance(error, ArtifactBroken) else PlanFault
            raise kind(f"plan {plan.spec.key} can't be loaded: {error}") from error
        self._loaded = {**self._loaded, plan.spec.key: loaded}
        self._resident = frozenset(self._loaded)

    def unload(self, key: str) -> None:
        gone = self._loaded.get(key)
        self._loaded = {k: v for k, v in self._loaded.items() if k != key}
        self._resident = frozenset(self._loaded)
        if gone is not None:
            gone.close()

    def run(self, key: str, leaves: Sequence[torch.Tensor]) -> Answer:
        began = self._clock()
        try:
            outputs = run_loaded(self._loaded[key], leaves)
        except OutsideRange as error:
            raise PlanDeclined(f"plan {key} declined: {error}") from error
        except Exception as error:
            raise PlanFault(f"plan {key} raised {type(error).__name__}: {error}") from error
        return Answer(outputs, (self._clock() - began) * 1e3)

    def retire(self) -> None:
        self.close()  # whoever runs a plan holds it

    def close(self) -> None:
        for key in list(self._loaded):
            self.unload(key)


def run_loaded(plan: LoadedPlan, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Runs a loaded plan on torch tensors, whichever kind of array it takes."""
    if plan.arrays == "torch":
        with torch.no_grad():
            return list(plan.run(leaves))
    arrays = plan.run([leaf.detach().numpy() for leaf in leaves])
    return [torch.from_numpy(array) for array in arrays]
