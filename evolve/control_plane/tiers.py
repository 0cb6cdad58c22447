"""Sub-networks become quality tiers: derived, built and loaded beside serving, one after the other.

adopt ─► derived (agreement on stored rows) ─► built, verified against itself ─► rollout ─► full
             └─ below min_quality: refused           └─ none passed: refused       └─► rolled back
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evolve.control_plane.low_quality import known_low
from evolve.control_plane.plan_builder import PlanBuilder
from evolve.journal.journal import JournalError
from evolve.rollout.rollout import Stage
from supernet.elastic.derived import derive
from supernet.errors import BuildInterrupted
from supernet.jobs.errors import JobCancelled
from supernet.plans import PlanState

if TYPE_CHECKING:
    from evolve.control_plane.adoption import Adoption, Adoptions
    from evolve.control_plane.plan_builder import BuildSetup, Progress
    from evolve.control_plane.plan_loading import PlanLoading
    from evolve.control_plane.rollouts import Rollouts
    from evolve.journal.journal import Journal
    from evolve.watch.live_agreement import LiveAgreements
    from supernet.elastic.derived import Derived
    from supernet.jobs.pausing import Pauses
    from supernet.plans import PlanLibrary, PlanSpec

__all__ = ["State", "Tier", "Tiers"]

State: TypeAlias = Literal[
    "waiting", "deriving", "building", "shadow", "canary", "full", "rolled back", "refused"
]

_LOOK_S = 0.1
_BACK = Stage.ROLLED_BACK
MOST_PLANS = 3
"""Of a tier: the ways to run the original that are best, or likely to be."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A sub-network on its way to serve.

    `quality`: its agreement with the original on `rows` stored rows, 0 until that is known;
    `graph_hash`: what its plans are of, "" until it is derived; `reason`: why it is in its state.
    """

    name: str
    state: State = "waiting"
    quality: float = 0.0
    rows: int = 0
    graph_hash: str = ""
    reason: str = ""


class Tiers:
    """Those of one revision.

    Args:
        setup: Builds the original's plans; theirs are built likewise.
        library: Where all plans are known.
        loading: Makes verified plans serve, and takes them away.
        adoptions: What is wanted, of this runtime.
        agreements: How those that serve agree with the original.
        rollouts: How those that are built come to serve.
        builder: Builds the original's plans, which come first.
        journal: Is told of each step.
        said: Told, for the journal, of plans: (key, before, after, reason).
    """

    def __init__(
        self,
        setup: BuildSetup,
        library: PlanLibrary,
        loading: PlanLoading,
        adoptions: Adoptions,
        agreements: LiveAgreements,
        rollouts: Rollouts,
        builder: PlanBuilder,
        journal: Journal,
        said: Callable[[str, str, str, str], None],
        pauses: Pauses,
    ) -> None:
        self._setup, self._library, self._loading = setup, library, loading
        self._adoptions, self._agreements, self._rollouts = adoptions, agreements, rollouts
        self._original, self._journal, self._said, self._pauses = builder, journal, said, pauses
        self._known: dict[Adoption, Tier] = {}  # guarded by `adoptions.changed`
        self._settled: set[Adoption] = set()
        self._building: PlanBuilder | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="tiers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends what is under way and begins nothing more."""
        with self._adoptions.changed:
            self._stopped = True
            if self._building is not None:
                self._building.stop()
            self._adoptions.changed.notify_all()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def wait(self, timeout_s: float | None) -> bool:
        """Blocks until all that is adopted serves or is refused; False when the time ran out."""
        with self._adoptions.changed:
            return self._adoptions.changed.wait_for(
                lambda: self._stopped or self._settled >= set(self._adoptions.all()), timeout_s
            )

    def tiers(self) -> tuple[Tier, ...]:
        """All that are adopted, in the order in which they were."""
        with self._adoptions.changed:
            why = self._setup.capture.reason or "others come first"
            known = [
                self._known.get(adoption, Tier(adoption.name, reason=why))
                for adoption in self._adoptions.all()
            ]
        return tuple(map(self._judged, known))

    def _judged(self, tier: Tier) -> Tier:
        """As its rollout tells, once its plans are built, or it went back before."""
        rollout = self._rollouts.of(tier.name)
        if rollout is None or (tier.state == "building" and rollout.stage is not _BACK):
            return tier
        return replace(tier, state=rollout.stage.value, reason=rollout.reason)

    @property
    def progress(self) -> Progress | None:
        """How far the building of a tier is; None while none is built."""
        building = self._building
        return None if building is None else building.progress

    def dismiss(self, name: str, why: str = "its user dismissed it") -> None:
        """Takes a tier away: when this returns no further batch begins on it."""
        with self._adoptions.changed:
            adoption = self._adoptions.remove(name)
            tier = self._known.pop(adoption, None)
            self._settled.discard(adoption)
            building = self._building if tier is not None and tier.state == "building" else None
        if building is not None:
            building.stop()
            building.wait(None)
        self._loading.dismiss(name)
        self._rollouts.end(name)
        self._agreements.forget(name)
        self._journal.append(
            "tier", name, before={"state": "waiting" if tier is None else tier.state},
            after={"state": "dismissed"}, reason=why,
        )  # fmt: skip

    # -- its thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._stopped or self._original.wait(_LOOK_S)):
            pass
        while (adoption := self._next()) is not None:
            try:
                self._adopt(adoption)
            except JournalError:  # all was closed meanwhile
                return
            except (BuildInterrupted, JobCancelled):  # stopped, or dismissed
                continue
            except Exception as error:  # the service goes on without this tier
                self._to(adoption, "refused", f"{type(error).__name__}: {error}")
            finally:
                with self._adoptions.changed:
                    self._building = None
                    if self._adoptions.has(adoption):
                        self._settled.add(adoption)
                    self._adoptions.changed.notify_all()

    def _next(self) -> Adoption | None:
        """The first that nothing was done about yet, once there is one; None once stopped."""

        def due() -> Adoption | None:
            return next((a for a in self._adoptions.all() if a not in self._settled), None)

        with self._adoptions.changed:
            self._adoptions.changed.wait_for(lambda: self._stopped or due() is not None)
            if self._stopped or (found := due()) is None:
                return None
            return self._adoptions.bind(found, self._setup.capture.graph_hash)

    def _adopt(self, adoption: Adoption) -> None:
        if adoption.graph_hash != self._setup.capture.graph_hash:
            return self._retire(adoption)
        if (obstacle := self._setup.obstacle()) is not None:
            return self._to(adoption, "refused", obstacle)
        self._to(adoption, "deriving", "its program is cut out of the model's")
        cache = self._setup.open_cache(lambda entry, why: None)
        made = derive(
            cache, self._setup.store(cache), adoption.spec, adoption.weights,
            cancelled=lambda: self._stopped or not self._adoptions.has(adoption),
        )  # fmt: skip
        why = self._note(adoption, made) or known_low(
            cache, made.graph_hash, self._setup.slo.agreement, self._setup.slo.min_quality
        )
        if why is not None:
            return self._to(adoption, "refused", why)
        self._build(adoption, made)  # `cache` holds what it is built from until then

    def _note(self, adoption: Adoption, made: Derived) -> str | None:
        """Keeps what was learned of a sub-network; why it must not serve."""
        slo = self._setup.slo
        quality = made.agreement[slo.agreement]
        with self._adoptions.changed:
            twin = next((t for t in self._known.values() if t.graph_hash == made.graph_hash), None)
            self._known[adoption] = replace(
                self._known[adoption], quality=quality, rows=made.rows,
                graph_hash="" if twin else made.graph_hash,
            )  # fmt: skip
        if twin is not None:
            return f"the same sub-network is adopted as {twin.name!r}"
        if not quality >= slo.min_quality:
            return (
                f"it agrees {quality:.4f} with the original ({slo.agreement}, {made.rows} stored "
                f"rows), which is below min_quality {slo.min_quality:g}: it never serves"
            )
        return None

    def _build(self, adoption: Adoption, made: Derived) -> None:
        """Blocks until its plans were tried."""
        tier, slo = self._known[adoption], self._setup.slo
        setup = replace(
            self._setup, capture=made.capture(self._setup.capture), stored=made.folder,
            like=self._manners(), subnet=adoption.name, quality=tier.quality,
            config=replace(self._setup.config, search=False, only=None),
        )  # fmt: skip
        builder = PlanBuilder(
            setup, self._library, self._loading, self._said, self._pauses, lambda: None
        )
        with self._adoptions.changed:
            if self._stopped or not self._adoptions.has(adoption):
                raise BuildInterrupted("nobody wants it any more")
            self._building = builder
            self._rollouts.begin(adoption.name)
            self._to(
                adoption, "building", f"it agrees {tier.quality:.4f} with the original "
                f"({slo.agreement}, {tier.rows} stored rows); its plans are built",
            )  # fmt: skip
        builder.start()
        while not builder.wait(_LOOK_S):
            if self._is_back(adoption):  # what was seen of the first of its plans is enough
                builder.stop()
        plans = [p for p in self._library.admitted() if p.subnet == adoption.name]
        if not self._adoptions.has(adoption):
            self._loading.dismiss(adoption.name)
            self._rollouts.end(adoption.name)
        elif plans:
            self._to(adoption, "shadow", f"{len(plans)} of its plans passed")
        elif not (self._stopped or self._is_back(adoption)):
            self._rollouts.end(adoption.name)
            self._to(adoption, "refused", "none of its plans passed")

    def _is_back(self, adoption: Adoption) -> bool:
        rollout = self._rollouts.of(adoption.name)
        return rollout is not None and rollout.stage is _BACK

    def _manners(self) -> tuple[PlanSpec, ...]:
        """The best plans of the original, whose like are built of a sub-network; without any, those
        that would be tried first."""
        own = [plan for plan in self._library.admitted() if not plan.subnet]
        own.sort(key=lambda plan: plan.state is not PlanState.RESIDENT)
        specs = tuple(plan.spec for plan in own) or self._setup.specs()
        return specs[:MOST_PLANS]

    def _retire(self, adoption: Adoption) -> None:
        self._adoptions.remove(adoption.name)
        self._journal.append(
            "tier", adoption.name, after={"state": "retired"},
            reason="it was made for other weights of the model than these; "
            + ("another is sought" if adoption.is_found else "adopt it again"),
        )  # fmt: skip

    def _to(self, adoption: Adoption, state: State, reason: str) -> None:
        with self._adoptions.changed:
            if not self._adoptions.has(adoption):
                return
            before = self._known.get(adoption, Tier(adoption.name))
            self._known[adoption] = now = replace(before, state=state, reason=reason)
        seen = {"quality": now.quality, "rows": float(now.rows)} if now.rows else {}
        self._journal.append(
            "tier", now.name, before={"state": before.state}, after={"state": state},
            reason=reason, seen=seen, applied=state != "refused",
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Each by its name, JSON-able."""
        plans = self._library.plans()
        seen = {tier.name: self._agreements.of(tier.name) for tier in self.tiers()}
        return {
            tier.name: {
                "state": tier.state, "reason": tier.reason, "quality": tier.quality,
                "agreement": {
                    "measure": self._agreements.measure, "samples": seen[tier.name].samples,
                    "mean": seen[tier.name].mean if seen[tier.name].samples else None,
                },
                "plans": {p.key: p.state.value for p in plans if p.subnet == tier.name},
            }
            for tier in self.tiers()
        }  # fmt: skip
