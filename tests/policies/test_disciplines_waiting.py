"""BentoML, which lets a batch wait, on queues worked out by hand.

Costs and SLO: `tests.policies.asking`; plan 0 takes 4, 6, 8, 10 ms for 1 to 4 rows, the SLO is
20 ms.
"""

from __future__ import annotations

import numpy as np
import pytest

from policies.disciplines import learn
from policies.rivals import BentoML, Proteus
from tests.policies.asking import NEVER, ask, fresh

PROTEUS = Proteus(plan=0)
BENTO = BentoML(plan=0)

# -- BentoML --------------------------------------------------------------------------------------
# a = (10 - 4) / 3 = 2, b = 4 - 2 = 2 ms.


def waits(*waited_ms: float) -> list[float]:
    return [100.0 - one for one in waited_ms]


def remembering(wait_ms: float) -> np.ndarray:
    memo = fresh()
    learn(BENTO.kind, BENTO.to_array(), 4, 1.0, True, wait_ms, memo)
    return memo


@pytest.mark.parametrize(
    ("waited_ms", "batch"),
    [
        ([0.0], 0),  # 1 · (0 + 1 + 2) = 3 <= 0.95 · 10
        ([6.5], 0),  # 9.5
        ([6.6], 1),
        ([9.0, 4.0, 0.0], 0),  # 3 · 3 = 9
        ([9.0, 4.0, 0.2], 3),  # 9.6
        ([9.0, 4.0, 0.2, 0.0], 4),  # full
    ],
)
def test_bentoml_waits_as_long_as_batches_usually_do(waited_ms: list[float], batch: int) -> None:
    told = ask(BENTO, waits(*waited_ms), memo=remembering(10.0))
    assert told == ((0, batch, 0, NEVER) if batch else (-1, 0, 0, 101.0))


def test_bentoml_does_not_wait_before_it_knows_how_long() -> None:
    assert ask(BENTO, waits(0.0)) == (0, 1, 0, NEVER)


@pytest.mark.parametrize(
    ("waited_ms", "expected"),
    [
        ([13.9, 1.0], (0, 2, 0)),  # 13.9 + 2 · 2 + 2 = 19.9
        ([14.0, 1.0], (0, 1, 1)),  # 20 is not below the SLO
        ([6.0] * 6, (0, 4, 1)),  # 6 + 2 · 6 + 2 = 20: it counts all that wait, not the batch
        ([19.9], (0, 1, 0)),  # a lone one is served as long as its wait is below
        ([20.0], (-1, 0, 1)),
        ([30.0, 20.0], (-1, 0, 2)),
    ],
)
def test_bentoml_cancels_what_would_be_late(
    waited_ms: list[float], expected: tuple[int, int, int]
) -> None:
    assert ask(BENTO, waits(*waited_ms)) == (*expected, NEVER)


def test_bentoml_averages_over_fifty_batches() -> None:
    memo = fresh()
    seen = []
    for wait_ms in [10.0, 20.0, 0.0, *[10.0] * 47, 60.0]:
        learn(BENTO.kind, BENTO.to_array(), 4, 1.0, True, wait_ms, memo)
        seen.append(float(memo[12]))
    assert seen[:3] == pytest.approx([10.0, 15.0, 10.0])
    assert seen[-2:] == pytest.approx([10.0, 11.0])  # + (60 - 10) / 50


def test_bentoml_with_room_for_one_and_costs_that_shrink() -> None:
    assert ask(BentoML(plan=0, max_rows=1), waits(0, 0), memo=remembering(10.0)) == (0, 1, 0, NEVER)
    odd = np.array([[6.0, 5.0, 4.0, 3.0]])  # a line cannot fall: a = 0, b = 6
    assert ask(BENTO, waits(13.9, 0), cost=odd) == (0, 2, 0, NEVER)
    assert ask(BENTO, waits(14.0, 0), cost=odd) == (0, 1, 1, NEVER)


def test_what_the_others_do_not_learn_leaves_no_trace() -> None:
    memo = fresh()
    learn(PROTEUS.kind, PROTEUS.to_array(), 4, 2.0, False, 9.0, memo)
    assert not memo.any()
