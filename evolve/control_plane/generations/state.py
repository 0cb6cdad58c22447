"""What generations of one model go on from, kept beside its capture from one start to the next.

::

    CACHE/evolution/<key>/
      lock                    held during a generation: one process at a time
      search/                 the job's own: weights, archive
      tiers.json              which tiers were adopted of it, and which are out for good
      tiers/NAME.safetensors  their weights
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.control_plane.adoption import NAME
from supernet.elastic.subnet import SubnetSpec
from supernet.elastic.trained import digest_of
from supernet.manifest import sync, unseal, write_sealed

if TYPE_CHECKING:
    from supernet.cache import ArtifactCache

__all__ = ["BadProposal", "GenerationState", "InUse", "Proposal", "Record", "Refusal"]

_RECENT = 4
"""Models whose states are kept beside those in use; each holds the weights a few times over."""


class InUse(Exception):
    """Another process is at it."""


class BadProposal(ValueError):
    """What a job gave cannot be adopted."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A sub-network that a search found worth serving, with its trained weights; `quality` and
    `speedup` as it predicts them."""

    name: str
    spec: SubnetSpec
    weights: Path
    quality: float
    speedup: float
    reason: str

    @classmethod
    def of(cls, row: Mapping[str, Any], folder: Path) -> Proposal:
        """The one in `row`, whose weights lie in `folder`; a `BadProposal` where there is none."""
        try:
            weights = folder / Path(str(row["weights"])).name
            made = cls(
                str(row["name"]), SubnetSpec.from_json(row["spec"]), weights,
                float(row["quality"]), float(row["speedup"]), str(row["reason"]),
            )  # fmt: skip
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadProposal(f"a tier must be one, got {type(error).__name__}: {error}") from error
        if not NAME.fullmatch(made.name):
            raise BadProposal(f"the name of a tier must match {NAME.pattern}, got {made.name!r}")
        if not weights.is_file() or weights.is_symlink():
            raise BadProposal(f"the tier {made.name!r} must come with its weights, got no file")
        return made

    def row(self) -> dict[str, Any]:
        """The inverse of `of`, JSON-able."""
        return {
            "name": self.name, "spec": self.spec.to_json(), "weights": self.weights.name,
            "quality": self.quality, "speedup": self.speedup, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tier that is out for good: it was asked to agree `least` with the model."""

    name: str
    spec: str
    quality: float
    least: float
    why: str

    def bars(self, proposal: Proposal, least: float) -> bool:
        """Whether it speaks against this one: the same, or the same sub-network with weights that
        promise no more, where no less is asked."""
        same = self.name == proposal.name
        no_better = self.spec == proposal.spec.key and proposal.quality <= self.quality
        return self.least <= least and (same or no_better)


@dataclass(frozen=True, slots=True)
class Record:
    """What was adopted, and what never will be again."""

    tiers: tuple[Proposal, ...] = ()
    refused: tuple[Refusal, ...] = ()


class GenerationState:
    """The folder of one model, which nobody prunes while `cache` lives."""

    def __init__(self, cache: ArtifactCache, key: str) -> None:
        self.folder = cache.growing("evolution", key)
        cache.prune("evolution", "", _RECENT)

    @staticmethod
    def exists(cache: ArtifactCache, key: str) -> bool:
        """Whether there ever was a generation."""
        return (cache.root / "evolution" / key).is_dir()

    @property
    def search(self) -> Path:
        """The job's own folder."""
        folder = self.folder / "search"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within the block nobody else changes it; raises `InUse` where somebody does."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InUse("another process is at it") from error
            yield
        finally:
            os.close(descriptor)

    def read(self) -> Record:
        """What was written last; nothing of what is damaged."""
        try:
            body = unseal(self.folder / "tiers.json")
            refused = tuple(Refusal(**row) for row in body["refused"])
            rows = list(body["tiers"])
        except (OSError, LookupError, TypeError, ValueError):
            return Record()
        tiers = []
        for row in rows:
            with contextlib.suppress(BadProposal, LookupError, OSError):
                proposal = Proposal.of(row, self.folder / "tiers")
                if digest_of(proposal.weights) == row["digest"]:
                    tiers.append(proposal)
        return Record(tuple(tiers), refused)

    def write(self, tiers: Sequence[Proposal], refused: Sequence[Refusal]) -> Record:
        """Keeps these, whole or not at all, and takes in their weights; the caller has locked it.

        Those that another process let go of, whose weights are gone, are not kept.
        """
        folder = self.folder / "tiers"
        folder.mkdir(mode=0o700, exist_ok=True)
        kept = [_kept(tier, folder) for tier in tiers if tier.weights.is_file()]
        record = {
            "tiers": [{**tier.row(), "digest": digest_of(tier.weights)} for tier in kept],
            "refused": [asdict(one) for one in refused],
        }
        written = self.folder / "tiers.json.new"
        write_sealed(written, record)
        os.replace(written, self.folder / "tiers.json")
        sync(self.folder)
        wanted = {tier.weights for tier in kept}
        for path in folder.iterdir():
            if path not in wanted:
                path.unlink(missing_ok=True)
        return Record(tuple(kept), tuple(refused))


def _kept(tier: Proposal, folder: Path) -> Proposal:
    """`tier`, with its weights in `folder`."""
    if tier.weights.parent == folder:
        return tier
    path = folder / f"{tier.name}.safetensors"
    written = path.with_suffix(".new")
    shutil.copyfile(tier.weights, written)
    sync(written)
    os.replace(written, path)
    return Proposal(tier.name, tier.spec, path, tier.quality, tier.speedup, tier.reason)
