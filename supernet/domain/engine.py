"""Deviations of an engine from the model, and whether they could show. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FEW_BITS", "INEXACT", "Domain", "Engine", "obstacle", "words"]

FEW_BITS = 25
"""Integers of so many bits every engine computes exactly, by way of float32 if need be."""


def words(text: str) -> frozenset[str]:
    """The names of operators, written one after the other."""
    return frozenset(text.split())


INEXACT = words(
    """floor_divide remainder fmod div __rshift__ bitwise_right_shift pow prod max min amax amin
    maximum minimum max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d
    argmax argmin sort topk argsort clamp clamp_min clamp_max sign abs"""
)
"""Operators whose integers some engine computes by way of float32."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What is known of a program's numbers, given that its guards hold.

    ``uses``: the operators by name, each with the dtypes that it takes and gives.
    ``bits``: how many of them the integers that an operator takes or gives may need, where these
    are more than ``FEW_BITS``. ``wraps``: operators whose integers may leave their dtype.
    ``unproven``: an index or a divisor that may be outside what its operator takes; by whether the
    least is known to be no less than the operator takes. ``asserts``: operators that raise for
    some numbers. ``undefined``: operators that may make a NaN of finite numbers, each with those
    that take in what it made. ``unbounded``: likewise for
    an infinity that the program itself writes. ``infinite``, ``nan``: by output, whether the
    model's own answers may hold one.
    """

    uses: frozenset[tuple[str, str]] = frozenset()
    bits: Mapping[str, int] = field(default_factory=dict, hash=False)
    wraps: frozenset[str] = frozenset()
    unproven: Mapping[str, bool] = field(default_factory=dict, hash=False)
    asserts: frozenset[str] = frozenset()
    undefined: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    unbounded: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    unguarded: str | None = None
    failed: str | None = None
    infinite: tuple[bool, ...] = ()
    nan: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """What a backend computes otherwise than torch; the defaults say: nothing.

    ``bits``: of its integers; ``narrow``: of those that some operators take. ``saturates``:
    operators whose integers stop at the end of their dtype ("*": all). ``dtypes``: those that it
    computes otherwise, and why; ``refused``: operators with a dtype that it gets wrong.
    ``checks_indices``: whether it refuses what is beyond the end of a table; ``wraps_indices``:
    whether it takes negative places where the model refuses them. ``aborts``: whether it ends the
    process instead. ``asserts``: whether it raises where the program asserts something of its
    numbers that does not hold. ``drops_nan``, ``drops_inf``: operators that may give a number for a
    NaN, or another one for an infinity.
    """

    bits: int = 64
    narrow: Mapping[str, int] = field(default_factory=dict, hash=False)
    saturates: frozenset[str] = frozenset()
    dtypes: Mapping[str, str] = field(default_factory=dict, hash=False)
    refused: frozenset[tuple[str, str]] = frozenset()
    checks_indices: bool = True
    wraps_indices: bool = False
    aborts: bool = False
    asserts: bool = True
    drops_nan: frozenset[str] = frozenset()
    drops_inf: frozenset[str] = frozenset()


def obstacle(domain: Domain, engine: Engine, *, isolated: bool) -> str | None:
    """Why plans of ``engine`` may answer otherwise than the model, in one line; None if not.

    ``isolated``: whether they run in processes of their own, which may end.
    """
    return (
        _unknown(domain, engine)
        or _integers(domain, engine)
        or _dtypes(domain, engine)
        or _indices(domain, engine, isolated)
        or _asserted(domain, engine)
        or _lost(domain, engine)
    )


def _unknown(domain: Domain, engine: Engine) -> str | None:
    if domain.failed is None or engine == Engine():
        return None
    return f"it is not known where it would answer otherwise: {domain.failed}"


def _integers(domain: Domain, engine: Engine) -> str | None:
    for name, bits in sorted(domain.bits.items()):
        held = engine.narrow.get(name, engine.bits)
        if bits > held:
            return f"it computes in {held} bits, and integers of {name} may need {bits}"
    for name in sorted(domain.wraps):
        if name in engine.saturates or "*" in engine.saturates:
            return f"integers of {name} may leave their dtype, and stop at its end there"
    return None


def _dtypes(domain: Domain, engine: Engine) -> str | None:
    for name, dtype in sorted(domain.uses):
        if dtype in engine.dtypes:
            return f"{engine.dtypes[dtype]} ({name})"
        if (name, dtype) in engine.refused:
            return f"its {name} of {dtype} gives something else"
    return None


def _indices(domain: Domain, engine: Engine, isolated: bool) -> str | None:
    for what, is_least_known in domain.unproven.items():
        if engine.aborts and not isolated:
            return (
                f"it may end the process: {what} is not proven to be in range; use process workers"
            )
        if not engine.checks_indices:
            return f"it does not check indices, and {what} may be out of range"
        if engine.wraps_indices and not is_least_known:
            return f"it takes negative indices, and {what} may be negative"
    return None


def _asserted(domain: Domain, engine: Engine) -> str | None:
    if engine.asserts or not domain.asserts:
        return None
    return f"it leaves out what the model asserts of its numbers ({min(domain.asserts)})"


def _lost(domain: Domain, engine: Engine) -> str | None:
    if engine.drops_nan and domain.unguarded:
        return f"it may answer a NaN with a number, and {domain.unguarded} may hold one"
    for what, found, lost in (
        ("a NaN", domain.undefined, engine.drops_nan),
        ("an infinity", domain.unbounded, engine.drops_inf),
    ):
        for source, takers in sorted(found.items()):
            if hit := takers & lost:
                return f"its {min(hit)} may give a number for {what} that {source} makes"
    return None
