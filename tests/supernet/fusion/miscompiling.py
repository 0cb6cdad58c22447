"""The fused backend with a compiler's fault in it: one kernel loses the last column of its sums."""

from __future__ import annotations

from pathlib import Path

from supernet.backends.fused import FusedBackend
from supernet.backends.fused_plan import FusedPlan
from supernet.fusion.kernels import onednn
from supernet.plans import PlanSpec


class Miscompiling(FusedBackend):
    """Everything as in the real backend, down to the kernels; only one weight is packed wrongly."""

    def load(self, artifact: Path, spec: PlanSpec) -> FusedPlan:
        packs, faulty = onednn.pack_linear, iter((True,))

        def pack(weight):  # type: ignore[no-untyped-def]
            if next(faulty, False):
                weight = weight.clone()
                weight[:, -1] = 0
            return packs(weight)

        onednn.pack_linear = pack
        try:
            return super().load(artifact, spec)
        finally:
            onednn.pack_linear = packs
