"""The judge finds what is wrong, and takes rounding for what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.trust.cases import Call
from benchmarks.trust.judge import Answer, Judge, Raised, Truth, asked, repeated, truths

ROWS = 6


class Model(nn.Module):
    """Rows `[B, 4]` to a large output, a small one beside it in the same tensor, and a class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        if bool((x > 50).any()):
            raise ValueError("x must be small")
        y = self.layer(x)
        joined = torch.cat([y * 1000, x[:, :1] * 1e-3], 1)
        return {"y": y.masked_fill(x[:, :1] > 5, -torch.inf), "joined": joined, "best": y.argmax(1)}


def calls() -> list[Call]:
    rng = torch.Generator().manual_seed(1)
    return [Call((torch.randn(ROWS, 4, generator=rng),)) for _ in range(12)]


@pytest.fixture
def due() -> list[Truth]:
    return truths(Model(), calls(), "alone")


def changed(truth: Truth, **values: Any) -> Answer:
    return Answer({**truth.answer.value, **values}, truth.answer.given)


def test_own_answers_are_right(due: list[Truth]) -> None:
    judge = Judge(due, 0.005)
    model = Model()
    for call, truth in zip(calls(), due, strict=True):
        assert judge.wrong(asked(model, call), truth) is None


def test_rounding_is_no_error(due: list[Truth]) -> None:
    """The same model computed in float64, and all rows in one batch."""
    judge = Judge(due, 0.0)
    together = Model()(torch.cat([call.args[0] for call in calls()]))
    for index, truth in enumerate(due):
        rows = slice(index * ROWS, (index + 1) * ROWS)
        own = {name: leaf[rows] for name, leaf in together.items()}
        assert judge.wrong(Answer(own, truth.answer.given), truth) is None
    wide = Model().double()(calls()[0].args[0].double())
    got = changed(due[0], y=wide["y"].float(), joined=wide["joined"].float())
    assert judge.wrong(got, due[0]) is None


def test_cancelled_noise_is_no_error() -> None:
    """What is left of two sums of the same numbers is rounding, and another in another order."""

    class Cancelling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1)[:, -1] - x.sum(1)

    x = torch.randn(1, 501, generator=torch.Generator().manual_seed(0)) * 1e3
    (due,) = truths(Cancelling(), [Call((x,))], "alone")
    assert float(due.answer.value.abs().min()) > 0.0
    judge = Judge([due], 0.005)
    assert judge.wrong(Answer(-due.answer.value, due.answer.given), due) is None
    assert judge.wrong(Answer(torch.full((1,), 10.0), due.answer.given), due) is not None


@pytest.mark.parametrize("row", range(ROWS))
def test_one_wrong_row(due: list[Truth], row: int) -> None:
    y = due[0].answer.value["y"].clone()
    y[row] *= 1.01
    assert f"row {row} is off" in str(Judge(due, 0.005).wrong(changed(due[0], y=y), due[0]))


def test_neighbours_value(due: list[Truth]) -> None:
    y = due[0].answer.value["y"].clone()
    y[2] = y[3]
    assert "row 2 is off" in str(Judge(due, 0.005).wrong(changed(due[0], y=y), due[0]))


def test_neighbours_small_entry_beside_large_ones(due: list[Truth]) -> None:
    """The norm of the row does not see it."""
    joined = due[0].answer.value["joined"].clone()
    joined[2, 3] = joined[4, 3]
    assert "entry (2, 3)" in str(Judge(due, 0.005).wrong(changed(due[0], joined=joined), due[0]))


def test_swallowed_error() -> None:
    own = [Call((torch.full((1, 4), 99.0),))]
    due = truths(Model(), own, "alone")
    answered = Answer({"y": torch.zeros(1, 3)}, ((own[0].args[0],), {}))
    judge = Judge(due, 0.005)
    assert "answered where ValueError is due" in str(judge.wrong(answered, due[0]))
    assert "raised KeyError" in str(judge.wrong(Answer(Raised("KeyError", "")), due[0]))
    assert judge.wrong(Answer(Raised("ValueError", "another text")), due[0]) is None


def test_error_where_an_answer_is_due(due: list[Truth]) -> None:
    got = Answer(Raised("IndexError", "out of range"))
    assert "raised IndexError" in str(Judge(due, 0.005).wrong(got, due[0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(due: list[Truth], value: float) -> None:
    y = due[0].answer.value["y"].clone()
    y[0, 0] = value
    assert "where 0 are due" in str(Judge(due, 0.005).wrong(changed(due[0], y=y), due[0]))


def test_infinity_that_is_due() -> None:
    own = [Call((torch.tensor([[9.0, 0, 0, 0]]),))]
    due = truths(Model(), own, "alone")
    lowest = torch.full((1, 3), torch.finfo(torch.float32).min)
    judge = Judge(due, 0.005)
    assert judge.wrong(due[0].answer, due[0]) is None
    assert "0 -inf where 3 are due" in str(judge.wrong(changed(due[0], y=lowest), due[0]))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"y": torch.zeros(ROWS, 3, dtype=torch.float64)}, "float64"),
        ({"y": torch.zeros(ROWS + 1, 3)}, "(7, 3)"),
        ({"best": torch.full((ROWS,), 7)}, "is 7, due"),
        ({"more": 1}, "is built as"),
    ],
)
def test_kinds(due: list[Truth], values: dict[str, Any], what: str) -> None:
    assert what in str(Judge(due, 0.005).wrong(changed(due[0], **values), due[0]))


def test_parameter_is_not_a_tensor() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Any:
            return x, self.weight

    due = truths(Given(), [Call((torch.ones(1),))], "alone")
    x, weight = due[0].answer.value
    got = Answer((x, weight.detach()), due[0].answer.given)
    assert "Parameter" in str(Judge(due, 0.005).wrong(got, due[0]))


def test_arguments_that_should_have_been_written(due: list[Truth]) -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    call = Call((torch.zeros(1, 2),))
    due = truths(Writing(), [call], "serial")
    assert call.args[0].eq(0).all()  # the request itself is kept
    unwritten = Answer(torch.ones(1, 2), ((torch.zeros(1, 2),), {}))
    assert "arguments afterwards" in str(Judge(due, 0.005).wrong(unwritten, due[0]))


def test_states_are_those_of_a_twin_asked_in_order() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.calls

    model = Counter()
    due = truths(model, [Call((torch.zeros(1),))] * 3, "serial")
    assert [float(truth.answer.value) for truth in due] == [1.0, 2.0, 3.0]
    assert float(model.calls) == 0.0


def test_equal_answers_where_chance_is_due() -> None:
    call = Call((torch.ones(2),))
    due = truths(nn.Identity(), [call] * 3, "random")
    numbers = [Answer(torch.full((2,), value)) for value in (0.1, 0.2, 0.1)]
    assert [what is None for _, what in repeated(numbers, [call] * 3, due)] == [True, True, False]


def test_errors_of_a_model_that_draws_numbers() -> None:
    call = Call((torch.full((1, 4), 99.0),))
    due = truths(Model(), [call] * 2, "random")
    answers = [Answer(Raised("ValueError", "")), Answer(Raised("KeyError", ""))]
    told = [what for _, what in repeated(answers, [call] * 2, due)]
    assert told[0] is None
    assert "raised KeyError where ValueError is due" in str(told[1])
