"""The scene of one environment: all that it is played with, as views of the inputs, a state and a
log.

    advance ─► scene_of ─► Scene ┬ env, service          its clock and counters, its constants
                                 ├ traffic, queue        who comes, who waits
                                 ├ setting, memo         what dispatches
                                 ├ crew, costs, truth    who works, at what price
                                 └ books                 where it is counted

Made once for every call of `advance`. Parts of the engine that are compiled into their only caller
take the whole scene; the others take the few parts that they need.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies._jit import borrowed, jit_inlined
from policies.disciplines import PROTEUS
from sims.engine.state import BY_ORDER, EngineInputs, Log, Records, State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Arrivals(NamedTuple):
    """Arrivals of all traces, see `EngineInputs`: `at_ms` [N]; `length`, `bucket` [N] or [1]; and
    the padded `lengths` [L]."""

    at_ms: Floats
    length: NDArray[np.int32]
    bucket: NDArray[np.int32]
    lengths: Floats


class Queue(NamedTuple):
    """The queue's room [Q]: when who waits arrived, and which arrival it is. Filled from
    `env.head` to `env.tail`."""

    at_ms: Floats
    id: Ints


class Dispatching(NamedTuple):
    """What dispatches: `kind` of discipline and `params` [8]; and of each kind of device what the
    rule made of its cost table, see `EngineInputs`."""

    kind: int
    params: Floats
    fastest: Floats
    plan: Ints
    ms_per_row: Floats
    efficient_rows: Ints
    tiers: Ints
    short: NDArray[np.bool_]
    top: Ints
    efficiency: Floats


class Crew(NamedTuple):
    """The workers [W]: what they are, what they are in the middle of, which free one is next."""

    workers: Records
    units: Records
    placement: int


class Costs(NamedTuple):
    """What is known of the plans: batches' costs `believed` [D, P, R, L] ms, `accuracy` [P]."""

    believed: Floats
    accuracy: Floats


class Truth(NamedTuple):
    """What no table knows: batches' costs as they are, [D, P, R, L] ms; `factor` [F], `drift` [K],
    see `Disturbances`; when each worker last ran a plan, [W, P] ms, -inf: it does not hold it."""

    cost_ms: Floats
    factor: Floats
    drift: Floats
    used_ms: Floats


class Books(NamedTuple):
    """Where it is counted what became of requests: the window's `slots`, and the log of a trace
    whose arrivals begin at `first`."""

    slots: Floats
    log: Log
    first: int


class Scene(NamedTuple):
    """All that one environment is played with. `memo`: what a discipline remembers. `members` [R]:
    room for a decision."""

    env: Any
    service: Any
    traffic: Arrivals
    queue: Queue
    setting: Dispatching
    memo: Floats
    members: Ints
    crew: Crew
    costs: Costs
    truth: Truth
    books: Books


@jit_inlined
def scene_of(inputs: EngineInputs, state: State, log: Log, e: int) -> Scene:
    """The scene of environment `e` under its preset. Its arrays are borrowed: whoever made the
    inputs, the state and the log keeps them alive."""
    inputs, state, log = borrowed(inputs), borrowed(state), borrowed(log)
    env = state.env[e]
    service, kind = inputs.service[env.service], inputs.kind[env.preset]
    return Scene(
        env,
        service,
        Arrivals(inputs.at_ms, inputs.length, inputs.bucket, inputs.lengths),
        Queue(state.queue_ms[e], state.queue_id[e]),
        Dispatching(
            kind, inputs.params[env.preset], inputs.fastest[env.preset], inputs.plan[env.preset],
            inputs.ms_per_row[env.preset], inputs.efficient_rows[env.preset],
            inputs.tiers[env.preset], inputs.short[env.preset], inputs.top[env.preset],
            inputs.efficiency[env.preset],
        ),
        state.memo[e],
        state.members[e],
        Crew(
            inputs.worker[env.service], state.unit[e],
            BY_ORDER if kind == PROTEUS else service.placement,
        ),
        Costs(inputs.believed, inputs.accuracy),
        Truth(
            inputs.true, inputs.factor[env.service], inputs.drift[env.service], state.used_ms[e],
        ),
        Books(state.slots[e], log, inputs.first[env.trace]),
    )  # fmt: skip
