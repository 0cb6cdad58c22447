"""The watch of one runtime, made and introduced to what it may turn off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evolve.data_plane.liberties import Liberties, Licence, Memory
from evolve.watch.correction import Correction
from evolve.watch.judge import Judge
from evolve.watch.live_error import LiveErrors
from evolve.watch.watch import Watch, Watched
from supernet.fidelity import Limit

if TYPE_CHECKING:
    from evolve.control_plane.plan_builder import BuildSetup
    from evolve.data_plane.faults import Faults
    from evolve.data_plane.liberties import Liberty
    from evolve.data_plane.original import Original
    from evolve.journal.journal import Journal
    from evolve.watch.live_agreement import LiveAgreements
    from supernet.cache import ArtifactCache
    from supernet.capture.subject import Capture
    from supernet.jobs.pausing import Pauses
    from supernet.plans import PlanLibrary

__all__ = ["make_watch"]


def make_watch(
    setup: BuildSetup,
    original: Original,
    library: PlanLibrary,
    journal: Journal,
    pauses: Pauses,
    faults: Faults,
    agreements: LiveAgreements,
    withdrawn: dict[str, str],
) -> tuple[Licence, Watch]:
    """What lanes may do with requests, and who has it taken back.

    What earlier runs of the same model had to withdraw, or earlier captures of it in this one
    (`withdrawn`, which is added to), is withdrawn from the start, and the journal says so.
    """
    captured = setup.capture

    def open_cache() -> ArtifactCache:
        return setup.open_cache(lambda entry, why: None)

    signature = captured.signature
    granted = Liberties(batching=signature.batchable, padding=signature.paddable)
    memory = Memory(setup.place().folder, open_cache, captured.graph_hash)
    licence = Licence(granted, memory, withdrawn)
    for liberty, why in licence.withdrawn.items():
        journal.append("runtime", liberty, after={"state": "off"}, reason=f"found earlier: {why}")

    def on_event(what: str) -> None:
        journal.append("runtime", "watch", reason=what)

    def idle() -> bool:
        pauses.resume()
        return not pauses.is_held

    limit = Limit(setup.slo.metric, setup.slo.max_error)
    watch = Watch(
        Judge(original, signature, library, LiveErrors(limit), agreements),
        Watched(_is_watched(captured, "batching"), _is_watched(captured, "padding")),
        act=Correction(licence, faults, journal, library), on_event=on_event,
        idle=idle, weights=original.version,
    )  # fmt: skip
    return licence, watch


def _is_watched(captured: Capture, liberty: Liberty) -> bool:
    """All but what was proven on the captured graph."""
    return (captured.batching if liberty == "batching" else captured.padding).watched
