"""The gate of a rollout: what must be seen before the next stage, and what ends it at once."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Evidence", "Gate"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a tier by now.

    `samples` of its answers were compared with the original's since it was adopted, and agree
    `mean` on average; `is_below`: that this is less than what is asked is beyond chance. `fault`
    is what went wrong with its plans, "" for nothing.
    """

    samples: int = 0
    mean: float = 1.0
    is_below: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a tier must pass.

    Args:
        least: Mean agreement that is asked, above 0 and at most 1.
        min_samples: Answers to be compared in each stage, at least 1.
        canary_share: Share of the requests that a canary may answer, above 0 and at most 1.

    >>> gate = Gate(least=0.98)
    >>> gate.fault(Evidence(samples=14, mean=0.9, is_below=True))
    'it agrees 0.9000 with the original over 14 answers, below 0.98 beyond chance'
    """

    least: float
    min_samples: int = 64
    canary_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise ValueError(f"least must be above 0 and at most 1, got {self.least}")
        if self.min_samples < 1:
            raise ValueError(f"min_samples must be at least 1, got {self.min_samples}")
        if not 0 < self.canary_share <= 1:
            raise ValueError(f"canary_share must be above 0 and at most 1, got {self.canary_share}")

    def fault(self, evidence: Evidence) -> str:
        """Why it must go back at once, however little was seen; "" for no reason."""
        if evidence.fault:
            return evidence.fault
        if not evidence.is_below:
            return ""
        return (
            f"it agrees {evidence.mean:.4f} with the original over {evidence.samples} answers, "
            f"below {self.least:g} beyond chance"
        )

    def passes(self, evidence: Evidence, since: int) -> bool:
        """Whether enough was seen since `since` samples, and all together is good enough."""
        return evidence.samples - since >= self.min_samples and evidence.mean >= self.least
