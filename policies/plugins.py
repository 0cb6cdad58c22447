"""Policies by name: the built-in ones, those of other packages, and exported folders.

A package adds a policy through the entry-point group `evolve.policies`:

    [project.entry-points."evolve.policies"]
    careful = "my_package:CarefulPolicy"

The object is a callable without arguments that returns a `Policy`. One that is broken says so
when it is asked for, and hides nothing else.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from policies.base import Policy
from policies.contract import NAME

__all__ = ["GROUP", "PolicyPluginError", "load_policy", "policy_names"]

GROUP = "evolve.policies"
"""Entry-point group; the name of an entry is the name to ask for."""

_BUILT_IN = {
    "rule": EntryPoint("rule", "policies.baselines:RulePolicy", GROUP),
    "threshold": EntryPoint("threshold", "policies.baselines:ThresholdPolicy", GROUP),
}
"""Known without installed metadata (a source checkout has none), and never replaced."""


class PolicyPluginError(RuntimeError):
    """A registered policy cannot be had; says which distribution it is of, and why."""


def policy_names() -> tuple[str, ...]:
    """All registered names, the built-in ones first; nothing is loaded.

    >>> policy_names()[:2]
    ('rule', 'threshold')
    """
    return tuple(_registered())


def load_policy(name: str) -> Policy:
    """The policy called `name`, or the trained one exported to the folder `name`.

    A registered name comes before a folder of the same name (`./name` is the folder). Raises
    ValueError for a name that is neither, `PolicyPluginError` when what is registered does not
    load, and `PolicyFileError` when a folder's files are not a policy.

    >>> load_policy("rule").name
    'rule'
    """
    entries = _registered().get(name)
    if entries is not None:
        return _loaded(name, entries)
    if not Path(name).is_dir():
        raise ValueError(
            f"policy must be {', '.join(policy_names())} or an exported folder, got {name!r}"
        )
    from policies.tactical import TacticalPolicy

    return TacticalPolicy.load(name)


def _registered() -> dict[str, list[EntryPoint]]:
    found = {name: [entry] for name, entry in _BUILT_IN.items()}
    for entry in entry_points(group=GROUP):
        if entry.name not in _BUILT_IN:
            found.setdefault(entry.name, []).append(entry)
    return found


def _loaded(name: str, entries: list[EntryPoint]) -> Policy:
    if len({entry.value for entry in entries}) > 1:
        raise PolicyPluginError(
            f"policy {name!r} must be registered once, got {' and '.join(map(_origin, entries))}; "
            "uninstall all but one"
        )
    entry = entries[0]
    try:
        policy = entry.load()()
    except (Exception, SystemExit) as error:  # whatever a foreign package does on import
        raise PolicyPluginError(
            f"policy {name!r} of {_origin(entry)} failed to load: {error!r}; "
            "update or uninstall that package"
        ) from error
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise PolicyPluginError(
            f"policy {name!r} of {_origin(entry)} must be a callable without arguments that "
            f"returns a Policy (name, choose), got {policy!r}"
        )
    if not (isinstance(policy.name, str) and NAME.fullmatch(policy.name)):
        raise PolicyPluginError(
            f"policy {name!r} of {_origin(entry)} must have a name that matches {NAME.pattern}, "
            f"got {policy.name!r}"
        )
    return policy


def _origin(entry: EntryPoint) -> str:
    """ "my-package 1.2 (my_package:CarefulPolicy)"."""
    if entry.dist is None:
        return f"an unknown distribution ({entry.value})"
    return f"{entry.dist.name} {entry.dist.version} ({entry.value})"
