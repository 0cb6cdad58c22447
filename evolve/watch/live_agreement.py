"""Agreement of sub-networks with the original on live answers, and when it is below what is asked.

Whether a mean is below ``least`` is asked after every answer, for as long as the service lives, so
a test must hold at all times at once. This one bets against the claim that it is not: a gambler
starts with 1 and stakes, before each answer x in [0, 1], a share of what they have on x < least:

    capital ← capital · (1 + stake · (least − x)),   0 ≤ stake ≤ ½ / (1 − least)

If answers agree ``least`` or more on average, whatever came before, the capital is a
supermartingale and ever reaches 1/p with probability p at most (Ville 1939). That it does is the
same as that the upper end of the confidence sequence of Waudby-Smith and Ramdas falls below
``least`` at level 1 − p (Estimating means of bounded random variables by betting, JRSS B 2024,
sections 3 and 4; the stake is their aGRAPA). Since x cannot exceed 1, bets near it are strong: 14
answers of 0.9 refute 0.98, where a bound of Hoeffding or Bernstein that is corrected for many looks
takes hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supernet.fidelity import agreement

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Agreement", "LiveAgreements"]

MISTAKE = 1e-3
"""The chance that a sub-network that is good enough is ever taken out."""
_MOST_STAKE = 0.5


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the answers so far: how many, their mean, and what was won by betting on less than asked.

    `scatter` is the sum of their squared distances from the mean, `capital` a logarithm.

    >>> one = Agreement()
    >>> for _ in range(14):
    ...     one = one.after(0.9, least=0.98)
    >>> one.samples, round(one.mean, 3), one.is_below
    (14, 0.9, True)
    """

    samples: int = 0
    mean: float = 1.0
    scatter: float = 0.0
    capital: float = 0.0
    is_below: bool = False

    def after(self, x: float, least: float) -> Agreement:
        """With one more answer, that agrees `x`, where `least` is asked."""
        capital = self.capital + math.log1p(self._stake(least) * (least - x))
        samples = self.samples + 1
        before = self.mean if self.samples else x
        mean = before + (x - before) / samples
        return Agreement(
            samples, mean, self.scatter + (x - before) * (x - mean), capital,
            self.is_below or (capital >= -math.log(MISTAKE) and mean < least),
        )  # fmt: skip

    def _stake(self, least: float) -> float:
        """What would have made the capital grow fastest so far; nothing while the mean is not
        below. One answer that is exactly as asked is taken for seen, so that the first bets are
        careful."""
        weight = self.samples + 1
        short = least - (least + self.mean * self.samples) / weight
        if short <= 0.0:
            return 0.0
        variance = ((1.0 - least) ** 2 + self.scatter) / weight
        return min(short / (variance + short**2), _MOST_STAKE / (1.0 - least))


class LiveAgreements:
    """All sub-networks, over every answer of theirs that was checked. One thread adds; any reads.

    Args:
        measure: See `supernet.fidelity.agreement`.
        least: What is asked, below 1 where there are any.
    """

    def __init__(self, measure: str, least: float) -> None:
        self.measure, self.least = measure, least
        self._all: dict[str, Agreement] = {}

    def of(self, subnet: str) -> Agreement:
        """What was seen of one so far."""
        return self._all.get(subnet, Agreement())

    def add(self, subnet: str, got: Sequence[Tensor], original: Sequence[Tensor]) -> str | None:
        """Takes one more answer into account; why it must not serve, once that is so."""
        x = agreement(self.measure, got, original)
        self._all[subnet] = now = self.of(subnet).after(x, self.least)
        return self.why_below(subnet) if now.is_below else None

    def why_below(self, subnet: str) -> str:
        """The figures in words."""
        seen = self.of(subnet)
        return (
            f"{subnet!r} agrees {seen.mean:.4f} with the original ({self.measure}, over "
            f"{seen.samples} live answers), below min_quality {self.least:g} but for a chance of "
            f"{MISTAKE:g}"
        )

    def forget(self, subnet: str) -> None:
        """It serves no more."""
        self._all.pop(subnet, None)
