"""Findings on what may be done with a model's batches, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["OFF", "Finding", "Status"]

Status: TypeAlias = Literal["proven", "inferred", "demanded", "off"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether rows may share a batch, or lengths be padded.

    ========  ==================================================================================
    proven    the captured graph cannot compute anything else
    inferred  experiments on the original found no difference; watched on live answers
    demanded  the user said so, and experiments found nothing against it; watched
    off       not done
    ========  ==================================================================================

    ``why`` says it in words: the operator that stands against a proof, the experiment that failed.

    >>> str(Finding("off", "amax (net.py:12) sees the padding"))
    'off: amax (net.py:12) sees the padding'
    """

    status: Status
    why: str = ""

    @property
    def allowed(self) -> bool:
        return self.status != "off"

    @property
    def watched(self) -> bool:
        """Whether live answers must be compared with the original's for as long as it is used."""
        return self.status in ("inferred", "demanded")

    def __str__(self) -> str:
        return f"{self.status}: {self.why}" if self.why else self.status

    def to_json(self) -> dict[str, str]:
        return {"status": self.status, "why": self.why}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Finding:
        status = data["status"]
        if status not in ("proven", "inferred", "demanded", "off"):
            raise ValueError(f"status must be proven, inferred, demanded or off, got {status!r}")
        return Finding(status, str(data["why"]))


OFF = Finding("off")
