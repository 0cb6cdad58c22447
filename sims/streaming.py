"""A trace longer than memory, simulated piece by piece exactly as the whole of it would be.

    pieces ─► arrivals [still needed + piece] ─► engine, up to the last arrival known ─► sums
                        ▲                                         │
                        └── who waits, the last second's arrivals ┘

The engine refers to requests by their index among the arrivals. Between two pieces those that
nobody will ask for again are dropped and the indices of the others counted anew; clock, workers,
the rule's memory and the running sums go on untouched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.base import Policy
from policies.presets import DEFAULT
from profiler.signals import Signals
from sims.engine.advance import advance
from sims.engine.episodes import Piece, begin
from sims.engine.inputs import arrivals_for, make_inputs, tables_for
from sims.engine.state import SERVED, SLOT_MS, WINDOW, EngineInputs, full_log, make_state
from sims.latencies import BINS, counted, quantile
from sims.service import Result, Service
from sims.simulation import drive, signals_now
from sims.traces import NoArrivals, Trace

if TYPE_CHECKING:
    from sims.engine.inputs import Setting

__all__ = ["StreamedSimulation", "simulate_stream"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SEEN_MS = WINDOW * SLOT_MS
"""How far back `sims.engine.observe` counts arrivals."""
_MOST_KNOWN = 256
"""Settings whose tables are kept; one policy may invent others at every tick."""


def simulate_stream(
    service: Service, pieces: Iterable[Trace], policy: Setting | Policy, *, tick_ms: float = 100.0
) -> Result:
    """As `simulate`, of one trace given in consecutive pieces, such as `sims.traces.stream` gives.

    Every figure is that of the whole trace, but `p50_ms` and `p99_ms` are those within 0.1 %
    (`sims.latencies`). Held in memory are one piece, the last second of arrivals and those since
    the one that waits longest; pieces of some ten thousand requests cost little memory and time. A
    setting that refuses nobody has a queue that grows under lasting overload, as in `simulate`.

    Raises ValueError where there is no piece, where a piece begins before the last arrival of the
    one before it, and what `simulate` raises; of a piece when it is reached.

    >>> import numpy as np
    >>> from sims.traces import poisson
    >>> service = Service(np.full((1, 4, 1), 5.0), np.array([300.0]), slo_ms=50.0, workers=1)
    >>> whole = poisson(100.0, 60.0, seed=0)
    >>> pieces = (whole.head(30.0), Trace(*(a[whole.arrivals_s >= 30.0]
    ...     for a in (whole.arrivals_s, whole.lengths)), "rest"))
    >>> simulate_stream(service, pieces, DEFAULT).met == len(whole)
    True
    """
    simulation = StreamedSimulation(service, pieces)
    drive(simulation, policy, tick_ms=tick_ms)
    return simulation.result()


class StreamedSimulation:
    """`Simulation` of a trace in pieces: what becomes of each request is counted, not kept.

    A piece is asked for when the clock reaches the last arrival known, and what is wrong with it
    is raised then; see `simulate_stream`.
    """

    def __init__(self, service: Service, pieces: Iterable[Trace]) -> None:
        self.service, self._pieces = service, iter(pieces)
        first = next(self._pieces, None)
        if first is None:
            raise NoArrivals("pieces must hold at least one trace, got none")
        n = len(first)
        # Of full size even if all are equal: the next piece's need not be.
        self._inputs = make_inputs([service], [first], [DEFAULT])._replace(
            length=first.lengths.copy(), tokens=np.cumsum(first.lengths, dtype=np.float64)
        )
        self._tables: dict[Setting, dict[str, Any]] = {}
        self._state = make_state(1, self._inputs, room=max(16, n))
        self._log = full_log(n)
        self._last_s, self._pieces_seen, self._arrivals = first.seconds, 1, n
        self._batches = 0  # up to the last border
        self._latencies = np.zeros(BINS, np.int64)
        begin(self._inputs, self._state, 0, Piece(0, 0, 0, n))

    @property
    def _env(self) -> Any:
        return self._state.env[0]

    @property
    def now_ms(self) -> float:
        """Simulated time."""
        return float(self._env["now_ms"])

    @property
    def offered(self) -> int:
        """Requests that have arrived by now."""
        return self._arrivals - int(self._env["last"] - self._env["next"])

    @property
    def arriving(self) -> bool:
        """Whether requests are still to come."""
        return bool(self._env["next"] < self._env["last"])

    @property
    def held(self) -> int:
        """Requests in memory now."""
        return int(self._inputs.at_ms.size)

    def advance(self, until_ms: float, setting: Setting) -> None:
        """Play on to `until_ms` under one setting of the rule, or another discipline."""
        if not until_ms >= self.now_ms:
            raise ValueError(f"until_ms must be at least now_ms ({self.now_ms}), got {until_ms}")
        while until_ms >= (known_ms := float(self._inputs.at_ms[-1])):
            # The next piece may begin with more arrivals of that very moment.
            self._play(float(np.nextafter(known_ms, -math.inf)), setting)
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._append(piece)
        self._play(until_ms, setting)

    def _play(self, until_ms: float, setting: Setting) -> None:
        if until_ms < self.now_ms:
            return
        if setting not in self._tables:
            if len(self._tables) == _MOST_KNOWN:
                self._tables.clear()
            self._tables[setting] = tables_for(self.service, [setting])
        inputs = self._inputs._replace(**self._tables[setting])
        advance(inputs, self._state, self._log, 0, until_ms)

    def signals(self) -> Signals:
        """What the live window would show at this moment, on the ticks' grid of 100 ms."""
        return signals_now(self._inputs, self._state)

    def result(self) -> Result:
        """Figures over all requests offered so far; those still waiting count as not met."""
        env, n = self._env, self.offered
        latencies = self._latencies + self._answered()
        served, batches = int(env["answered"]), self._batches + int(env["batches"])
        last_ms = self._inputs.at_ms[env["next"] - 1] if n else 0.0
        return Result(
            offered=n,
            served=served,
            refused=int(env["refused"]),
            met=int(env["met"]),
            seconds=max(float(last_ms) / 1e3, 1e-3),
            utility=float(env["utility_sum"]) / max(n, 1),
            p50_ms=quantile(latencies, 0.5),
            p99_ms=quantile(latencies, 0.99),
            mean_rows=served / batches if batches else 0.0,
            padded_ratio=1.0 - float(env["tokens"] / env["computed"]) if batches else 0.0,
        )

    def _answered(self) -> Ints:
        """Latencies of the answers since the last border."""
        at_ms = self._inputs.at_ms
        served = self._log.outcome[: at_ms.size] == SERVED
        return counted((self._log.end_ms[: at_ms.size] - at_ms)[served])

    def _append(self, piece: Trace) -> None:
        """Put the next piece behind the arrivals that are still needed, and drop the others."""
        begins_s = float(piece.arrivals_s[0])
        if begins_s < self._last_s:
            raise ValueError(
                f"pieces must follow one another, got piece {self._pieces_seen} from {begins_s} s "
                f"on after an arrival at {self._last_s} s; times are those of the whole trace"
            )
        dropped = self._dropped()
        grown = self._grown(piece, dropped)
        self._latencies += self._answered()
        self._inputs = grown
        self._env["next"] -= dropped
        self._env["last"] = self.held
        self._queue_again(dropped)
        self._log_again()
        self._last_s, self._pieces_seen = piece.seconds, self._pieces_seen + 1
        self._arrivals += len(piece)

    def _dropped(self) -> int:
        """How many of the first arrivals nobody will ask for: they are over, and left the window.
        One before the window stays, from which its running sums are counted."""
        env, at_ms = self._env, self._inputs.at_ms
        shown = np.searchsorted(at_ms[: env["next"]], self.now_ms - _SEEN_MS, side="right")
        waiting = self._state.queue_id[0, env["head"] : env["tail"]]
        return max(0, int(min(shown - 1, waiting.min(initial=env["next"]))))

    def _grown(self, piece: Trace, dropped: int) -> EngineInputs:
        """The inputs with `piece` behind its arrivals; sums run on, so that not a bit differs."""
        old, more = self._inputs, arrivals_for([piece], self.service.lengths)
        gaps = np.diff(more["at_ms"], prepend=old.at_ms[-1])
        several = old.lengths.shape[0] > 1
        return old._replace(
            at_ms=np.append(old.at_ms[dropped:], more["at_ms"]),
            gaps2=np.append(old.gaps2[dropped:], _running(old.gaps2[-1], gaps**2)),
            length=np.append(old.length[dropped:], piece.lengths),
            tokens=np.append(old.tokens[dropped:], _running(old.tokens[-1], piece.lengths)),
            bucket=np.append(old.bucket[dropped:], more["bucket"]) if several else old.bucket,
            size=np.array([old.at_ms.size - dropped + len(piece)]),
        )

    def _queue_again(self, dropped: int) -> None:
        """The queue under its new indices, with room for all that come."""
        env, old = self._env, self._state
        queue = slice(int(env["head"]), int(env["tail"]))
        n = queue.stop - queue.start
        room = max(16, n + int(env["last"] - env["next"]))
        queue_ms, queue_id = np.zeros((1, room)), np.zeros((1, room), np.int64)
        queue_ms[0, :n], queue_id[0, :n] = old.queue_ms[0, queue], old.queue_id[0, queue] - dropped
        env["head"], env["tail"] = 0, n
        self._state = old._replace(queue_ms=queue_ms, queue_id=queue_id)

    def _log_again(self) -> None:
        """A new log. A batch's place in it and its hidden factor follow from its number, which
        begins anew after a full turn of the factors."""
        number, turn = int(self._env["batches"]), self._inputs.factor.shape[1]
        self._env["batches"] = number % turn
        self._batches += number - number % turn
        self._log = full_log(self.held + turn)


def _running(total: float, more: ArrayLike) -> Floats:
    """The running sum of `more`, begun at `total`."""
    return np.cumsum(np.append(total, more))[1:]
