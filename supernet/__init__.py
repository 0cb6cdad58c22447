"""In which ways a model can be run, and what is known about each.

``supernet.capture.capture`` learns how a model is called and exports it; ``propose`` lists plans
worth building; ``build_plan`` builds, verifies and measures one in a process of its own;
``ArtifactCache`` keeps the results; ``load_plan`` makes a built plan ready to run; ``PlanLibrary``
holds what is known. ``Supernet`` makes smaller models of a captured one, each named by a
``SubnetSpec``; ``distill`` trains the weights that those share.

Names are imported at first use, so that loading a plan for an engine other than torch never
imports it. (The function ``capture`` is imported from its module, whose name it shares.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from supernet.backends.base import BACKENDS, Backend, LoadedPlan, backend, load_plan
    from supernet.building.build import BuildLimits, build_plan
    from supernet.cache import ArtifactCache
    from supernet.capture.captured import Capture, Flat
    from supernet.capture.subject import Examples
    from supernet.distillation.batches import Batch, Corpus, batched
    from supernet.distillation.distiller import distill
    from supernet.distillation.result import Distilled
    from supernet.distillation.settings import DistillConfig
    from supernet.elastic.subnet import SubnetSpec
    from supernet.elastic.supernet import Supernet
    from supernet.errors import (
        BuildFailed,
        BuildInterrupted,
        CacheError,
        CacheFull,
        CacheUntrusted,
        CheckpointFailed,
        OutsideCapture,
        SupernetError,
        Uncapturable,
    )
    from supernet.fidelity import Fidelity, error, judge
    from supernet.plans import Plan, PlanLibrary, PlanSpec, PlanState
    from supernet.proposals import propose
    from supernet.signature import Signature, TensorSpec
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "backends.base": "BACKENDS Backend LoadedPlan backend load_plan",
            "building.build": "BuildLimits build_plan",
            "cache": "ArtifactCache",
            "capture.captured": "Capture Flat",
            "capture.subject": "Examples",
            "distillation.batches": "Batch Corpus batched",
            "distillation.distiller": "distill",
            "distillation.result": "Distilled",
            "distillation.settings": "DistillConfig",
            "elastic.subnet": "SubnetSpec",
            "elastic.supernet": "Supernet",
            "errors": (
                "BuildFailed BuildInterrupted CacheError CacheFull CacheUntrusted "
                "CheckpointFailed OutsideCapture SupernetError Uncapturable"
            ),
            "fidelity": "Fidelity error judge",
            "plans": "Plan PlanLibrary PlanSpec PlanState",
            "proposals": "propose",
            "signature": "Signature TensorSpec",
        },
    )

__all__ = [
    "BACKENDS",
    "ArtifactCache",
    "Backend",
    "Batch",
    "BuildFailed",
    "BuildInterrupted",
    "BuildLimits",
    "CacheError",
    "CacheFull",
    "CacheUntrusted",
    "Capture",
    "CheckpointFailed",
    "Corpus",
    "DistillConfig",
    "Distilled",
    "Examples",
    "Fidelity",
    "Flat",
    "LoadedPlan",
    "OutsideCapture",
    "Plan",
    "PlanLibrary",
    "PlanSpec",
    "PlanState",
    "Signature",
    "SubnetSpec",
    "Supernet",
    "SupernetError",
    "TensorSpec",
    "Uncapturable",
    "backend",
    "batched",
    "build_plan",
    "distill",
    "error",
    "judge",
    "load_plan",
    "propose",
]
