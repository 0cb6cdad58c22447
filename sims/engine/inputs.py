"""Inputs of the engine: from services, traces and settings to the arrays that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies._asking import Plans
from policies.compiled import prepare
from policies.params import MARGIN, MAX_ROWS
from policies.uniform import tables_of
from sims.engine.state import SERVICE, WORKER, EngineInputs, Records
from sims.service import PLACEMENTS, Disturbances, Service, Units
from sims.traces import Trace

__all__ = ["Setting", "arrivals_for", "make_inputs", "tables_for"]

Floats = NDArray[np.float64]


class Setting(Protocol):
    """What dispatches: a setting of the rule, or another discipline with its parameters."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> int:
        """Which of `policies.disciplines`; 0 is the rule."""
        ...

    def to_array(self) -> Floats:
        """float64 [8]."""
        ...


def make_inputs(
    services: Sequence[Service], traces: Sequence[Trace], settings: Sequence[Setting]
) -> EngineInputs:
    """The inputs of services that share plans and cost tables.

    Raises ValueError where there is none of them, where services differ in their tables (tiers,
    accuracies, padded lengths and memory patterns are among them) or a request is longer than the
    last length.
    """
    for name, given in (("services", services), ("traces", traces), ("settings", settings)):
        if not given:
            raise ValueError(f"{name} must hold at least one, got none")
    base = services[0]
    for other in services[1:]:
        if other is not base and not _same_tables(base, other):
            raise ValueError(
                "services must share cost_ms, true_ms, lengths, tier, accuracy and pattern; let "
                "them differ by units, hidden, switching, slo_ms and workers"
            )
    return EngineInputs(
        **arrivals_for(traces, base.lengths),
        **tables_for(base, settings),
        pattern=_pattern(base),
        service=_services(services),
        worker=_workers(services),
        **_disturbances([service.hidden for service in services]),
    )


def _same_tables(a: Service, b: Service) -> bool:
    names = ("cost_ms", "true_ms", "lengths", "tier", "accuracy", "pattern")
    return all(
        (x is y) or (x is not None and y is not None and np.array_equal(x, y, equal_nan=True))
        for x, y in ((getattr(a, name), getattr(b, name)) for name in names)
    )


def _pattern(base: Service) -> Floats:
    known = np.zeros((1, 1, 4)) if base.pattern is None else base.pattern
    return np.ascontiguousarray(known, np.float64)


def arrivals_for(traces: Sequence[Trace], lengths: Floats) -> dict[str, Any]:
    """The fields of the inputs that follow from the traces and the padded lengths."""
    size = np.array([len(trace) for trace in traces], np.int64)
    at_ms = np.concatenate([trace.arrivals_s for trace in traces]) * 1e3
    first = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64)
    gaps = np.diff(at_ms, prepend=0.0)
    gaps[first] = 0.0
    longest = max(int(trace.lengths.max()) for trace in traces)
    if longest > lengths[-1]:
        raise ValueError(
            f"trace lengths must be at most {lengths[-1]:g} (the last padded length), "
            f"got {longest}; extend the grid or clip the trace"
        )
    length, bucket = np.concatenate([trace.lengths for trace in traces]), np.zeros(1, np.int32)
    if lengths.shape[0] > 1:
        bucket = np.searchsorted(lengths, length, side="left").astype(np.int32)
    elif (length == length[0]).all():
        length = length[:1]
    tokens = np.cumsum(length, dtype=np.float64)
    return {
        "at_ms": at_ms, "gaps2": np.cumsum(gaps**2), "length": length, "bucket": bucket,
        "tokens": tokens, "first": first, "size": size, "lengths": lengths,
    }  # fmt: skip


def tables_for(base: Service, settings: Sequence[Setting]) -> dict[str, Any]:
    """The fields of the inputs that follow from the cost tables and the settings."""
    believed, true = base.table("cost_ms"), base.table("true_ms")
    kinds, plans, rows, buckets = believed.shape
    tier = np.zeros(plans, np.int64) if base.tier is None else base.tier.astype(np.int64)
    a = len(settings)
    fastest = np.full((a, kinds, plans + 1, rows, buckets), np.inf)
    plan = np.full((a, kinds, plans + 1, rows, buckets), -1, np.int64)
    ms_per_row = np.full((a, kinds, plans + 1, buckets), np.inf)
    efficient_rows = np.ones((a, kinds, plans + 1, buckets), np.int64)
    tiers = np.zeros((a, kinds), np.int64)
    short = np.zeros((a, kinds), np.bool_)
    top = np.ones((a, kinds, plans + 1, rows), np.int64)
    efficiency = np.zeros((a, kinds, plans + 1, rows))
    params = np.stack([setting.to_array() for setting in settings])
    kind = np.array([setting.kind for setting in settings], np.int64)
    for i in range(a):
        if kind[i] != 0:
            _check_rival(settings[i], base)
        for d in range(kinds if kind[i] == 0 else 0):
            given = Plans(believed[d], base.lengths, tier, np.ones(plans, np.bool_))
            f, p, u, g, _ = prepare(given, params[i])
            t = tiers[i, d] = f.shape[0] - 1
            fastest[i, d, : t + 1], plan[i, d, : t + 1] = f, p
            ms_per_row[i, d, : t + 1], efficient_rows[i, d, : t + 1] = u, g
            cap = min(int(params[i, MAX_ROWS]), rows)
            short[i, d] = buckets == 1 and bool(np.isfinite(f[:, :cap]).all())
            tables_of(
                f[..., 0], p[..., 0], u[:, 0], g[:, 0], params[i, MARGIN] == math.inf,
                top[i, d], efficiency[i, d],
            )  # fmt: skip
    accuracy = np.ones(plans) if base.accuracy is None else base.accuracy.astype(np.float64)
    return {
        "accuracy": accuracy, "believed": believed, "true": true, "params": params, "kind": kind,
        "fastest": fastest, "plan": plan, "ms_per_row": ms_per_row,
        "efficient_rows": efficient_rows, "tiers": tiers, "short": short,
        "top": top, "efficiency": efficiency,
    }  # fmt: skip


def _check_rival(setting: Setting, base: Service) -> None:
    """The other disciplines know requests of one length, and one of these plans."""
    if base.lengths.shape[0] > 1:
        raise ValueError(
            f"{setting.name} must serve requests of one padded length, got {base.lengths.shape[0]};"
            " only the rule batches by length"
        )
    plan = int(setting.to_array()[0])
    if plan >= base.plans:
        raise ValueError(f"{setting.name}: plan must be in 0..{base.plans - 1}, got {plan}")


def _services(services: Sequence[Service]) -> Records:
    rows = np.zeros(len(services), SERVICE)
    for row, service in zip(rows, services, strict=True):
        units = service.units or Units.alike(service.workers)
        row["workers"], row["slo_ms"] = service.workers, service.slo_ms
        row["delay_ms"] = service.delay_ms
        row["overhead_ms"], row["learning"] = service.overhead_ms, service.learning
        row["switch_ms"], row["load_ms"] = service.switching.switch_ms, service.switching.load_ms
        row["resident"] = service.switching.resident
        row["held_ratio"] = min(1.0, service.switching.resident / service.plans)
        row["drift_every_ms"] = service.hidden.drift_every_ms
        row["placement"] = PLACEMENTS.index(units.placement)
        ability = _ability(service, units)
        row["unevenness"] = ability.std() / ability.mean()
    return rows


def _workers(services: Sequence[Service]) -> Records:
    rows = np.zeros((len(services), max(service.workers for service in services)), WORKER)
    for row, service in zip(rows, services, strict=True):
        units = service.units or Units.alike(service.workers)
        used = row[: service.workers]
        used["kind"], used["slower"], used["link_ms"] = units.kind, units.slower, units.link_ms
        used["lost_from_ms"], used["lost_until_ms"] = units.lost_ms.T
        used["ability"] = _ability(service, units)
        used["abilities"] = np.cumsum(used["ability"])
    return rows


def _ability(service: Service, units: Units) -> Floats:
    """Work per ms of each worker, were every batch as cheap as batches get; mean 1 per kind 0."""
    believed = service.table("cost_ms")
    rows = np.arange(1, believed.shape[2] + 1)[None, :, None]
    unit_ms = np.array([np.nanmean(np.nanmin(t / rows, axis=(0, 1))) for t in believed])
    return np.asarray(unit_ms[0] / unit_ms[units.kind] / units.slower)


def _disturbances(hidden: Sequence[Disturbances]) -> dict[str, Any]:
    """Repeated to one size: both are used in turn, so that changes nothing but the period."""
    most = max(h.factor.size for h in hidden)
    knots = max(h.drift.size for h in hidden)
    return {
        "factor": np.stack([_repeated(h.factor, most) for h in hidden]),
        "drift": np.stack([_repeated(h.drift, knots) for h in hidden]),
    }


def _repeated(values: Floats, size: int) -> Floats:
    if values.size not in (1, size):
        raise ValueError(
            f"factor and drift must have one size in all services or 1, got {values.size} "
            f"beside {size}"
        )
    return np.resize(values, size)
