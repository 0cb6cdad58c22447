"""The one interface behind which every worker stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch

    from supernet.plans import Plan

__all__ = ["Answer", "Inputs", "Worker"]

Inputs: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
"""The input leaves of one batch, by dtype name and shape."""


class Answer(NamedTuple):
    """What a plan returned: flat output leaves in signature order, and how long it took.

    `lent`: the leaves lie in the worker's own memory and hold until its next `run`; what is to
    be kept must be copied.
    """

    leaves: list[torch.Tensor]
    elapsed_ms: float
    lent: bool = False


class Worker(Protocol):
    """Runs one batch at a time on behalf of one lane.

    `load` and `unload` may be called from another thread while `run` is under way.
    """

    name: str

    @property
    def pid(self) -> int:
        """The process that computes; the runtime's own for a thread worker."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the process that computes still runs."""
        ...

    @property
    def resident(self) -> frozenset[str]:
        """Keys of the plans that `run` accepts now."""
        ...

    def load(self, plan: Plan, warm: Sequence[Inputs] = ()) -> None:
        """Makes `plan` resident after running each of `warm` once on zeros.

        The first batch of a new shape costs a plan extra (kernels are chosen or compiled, about
        5 ms with OpenVINO): that is paid here, before anyone waits for it. Raises `PlanFault`
        when the plan can't be loaded, `PlanLost` when its files are gone.
        """
        ...

    def unload(self, key: str) -> None:
        """Frees a plan; unknown keys are ignored."""
        ...

    def run(self, key: str, leaves: Sequence[torch.Tensor]) -> Answer:
        """One batch through one resident plan; any failure is a `PlanFault`."""
        ...

    def retire(self) -> None:
        """Ends the worker when its batch under way has ended."""
        ...

    def close(self) -> None:
        """Ends the worker; a batch under way fails with `WorkerCrashed`."""
        ...
