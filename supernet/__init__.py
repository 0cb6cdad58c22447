"""In which ways a model can be run, and what is known about each.

``supernet.capture.capture`` learns how a model is called and exports it; ``propose`` lists plans
worth building; ``build_plan`` builds, verifies and measures one in a process of its own;
``ArtifactCache`` keeps the results; ``load_plan`` makes a built plan ready to run; ``PlanLibrary``
holds what is known. ``Supernet`` makes smaller models of a captured one, each named by a
``SubnetSpec``.

Names are imported at first use, so that loading a plan for an engine other than torch never
imports it. (The function ``capture`` is imported from its module, whose name it shares.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet.backends.base import BACKENDS, Backend, LoadedPlan, backend, load_plan
    from supernet.building.build import BuildLimits, build_plan
    from supernet.cache import ArtifactCache
    from supernet.capture.subject import Capture, Examples, Flat
    from supernet.elastic.subnet import SubnetSpec
    from supernet.elastic.supernet import Supernet
    from supernet.errors import (
        BuildFailed,
        BuildInterrupted,
        CacheError,
        CacheFull,
        CacheUntrusted,
        OutsideCapture,
        SupernetError,
        Uncapturable,
    )
    from supernet.fidelity import Fidelity, error, judge
    from supernet.plans import Plan, PlanLibrary, PlanSpec, PlanState
    from supernet.proposals import propose
    from supernet.signature import Signature, TensorSpec

_HOMES = {
    "BACKENDS": "backends.base",
    "ArtifactCache": "cache",
    "Backend": "backends.base",
    "BuildFailed": "errors",
    "BuildInterrupted": "errors",
    "BuildLimits": "building.build",
    "CacheError": "errors",
    "CacheFull": "errors",
    "CacheUntrusted": "errors",
    "Capture": "capture.captured",
    "Examples": "capture.subject",
    "Fidelity": "fidelity",
    "Flat": "capture.captured",
    "LoadedPlan": "backends.base",
    "OutsideCapture": "errors",
    "Plan": "plans",
    "PlanLibrary": "plans",
    "PlanSpec": "plans",
    "PlanState": "plans",
    "Signature": "signature",
    "SubnetSpec": "elastic.subnet",
    "Supernet": "elastic.supernet",
    "SupernetError": "errors",
    "TensorSpec": "signature",
    "Uncapturable": "errors",
    "backend": "backends.base",
    "build_plan": "building.build",
    "error": "fidelity",
    "judge": "fidelity",
    "load_plan": "backends.base",
    "propose": "proposals",
}

__all__ = [
    "BACKENDS",
    "ArtifactCache",
    "Backend",
    "BuildFailed",
    "BuildInterrupted",
    "BuildLimits",
    "CacheError",
    "CacheFull",
    "CacheUntrusted",
    "Capture",
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
    "build_plan",
    "error",
    "judge",
    "load_plan",
    "propose",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
