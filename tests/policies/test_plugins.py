"""Policies by name: built in, of another package, of a folder; a broken one hides nothing."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

from policies import plugins
from policies.base import Choice
from policies.baselines import RulePolicy, ThresholdPolicy
from policies.plugins import GROUP, PolicyPluginError, load_policy, policy_names
from policies.presets import DEFAULT
from policies.tactical import PolicyFileError, TacticalPolicy
from profiler.signals import Signals
from tests.policies.test_tactical import network


class Careful:
    name = "careful"

    def choose(self, signals: Signals, current: Choice) -> Choice:
        return Choice(DEFAULT, "careful")


class Unnamed(Careful):
    name = "two words"


def angry() -> Careful:
    raise KeyError("no licence")


def leaving() -> Careful:
    sys.exit(3)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What other packages register; nothing at first, not even this package's own."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    return entries


def entry(attribute: str, name: str = "careful", module: str = __name__) -> EntryPoint:
    return EntryPoint(name, f"{module}:{attribute}", GROUP)


def test_the_built_in_ones_need_no_metadata(
    registered: list[EntryPoint],
) -> None:
    assert policy_names() == ("rule", "threshold")
    assert isinstance(load_policy("rule"), RulePolicy)
    assert isinstance(load_policy("threshold"), ThresholdPolicy)


def test_the_built_in_ones_are_what_the_package_declares() -> None:
    tomllib = pytest.importorskip("tomllib")
    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    declared = told["project"]["entry-points"][GROUP]
    assert declared == {name: one.value for name, one in plugins._BUILT_IN.items()}


def test_another_package_adds_a_policy_but_replaces_none(registered: list[EntryPoint]) -> None:
    registered += [entry("Careful"), entry("Careful", "rule")]
    assert policy_names() == ("rule", "threshold", "careful")
    assert isinstance(load_policy("careful"), Careful)
    assert isinstance(load_policy("rule"), RulePolicy)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (entry("Nothing", module="no_such_module"), "failed to load: ModuleNotFoundError"),
        (entry("Nothing"), "failed to load: AttributeError"),
        (entry("angry"), r"failed to load: KeyError\('no licence'\); update or uninstall that"),
        (entry("leaving"), r"failed to load: SystemExit\(3\)"),
        (entry("dict", module="builtins"), r"must be a callable .* returns a Policy .*, got \{\}"),
        (entry("Unnamed"), "must have a name that matches .*, got 'two words'"),
    ],
)
def test_a_broken_one_says_whose_it_is_and_hides_nothing(
    broken: EntryPoint, text: str, registered: list[EntryPoint]
) -> None:
    owner = distribution("evolve-runtime")
    registered += [broken._for(owner), entry("Careful", "other")]  # type: ignore[attr-defined]
    with pytest.raises(PolicyPluginError, match=text) as caught:
        load_policy("careful")
    said = f"policy 'careful' of evolve-runtime {owner.version} ({broken.value}) "
    assert str(caught.value).startswith(said)
    assert policy_names() == ("rule", "threshold", "careful", "other")
    assert isinstance(load_policy("other"), Careful)


def test_a_factory_of_factories_is_no_policy(registered: list[EntryPoint]) -> None:
    registered.append(entry("make_class"))
    with pytest.raises(PolicyPluginError, match=r"an unknown distribution .* got <class"):
        load_policy("careful")


def make_class() -> type[Careful]:
    return Careful


def test_two_packages_must_not_claim_one_name(registered: list[EntryPoint]) -> None:
    registered += [entry("Careful"), entry("Careful")]  # one package, seen twice
    assert isinstance(load_policy("careful"), Careful)
    registered.append(entry("Unnamed"))
    with pytest.raises(
        PolicyPluginError, match=r"'careful' must be registered once, .* and .*; un"
    ):
        load_policy("careful")


def test_a_folder_is_a_trained_policy(
    tmp_path: Path, registered: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    TacticalPolicy(network(preset=2)).save(tmp_path / "rule")
    assert isinstance(load_policy(str(tmp_path / "rule")), TacticalPolicy)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_policy("./rule"), TacticalPolicy)
    assert isinstance(load_policy("rule"), RulePolicy)
    with pytest.raises(PolicyFileError, match=r"must hold policy\.json"):
        load_policy(str(tmp_path))


def test_a_name_that_is_none_is_named(registered: list[EntryPoint]) -> None:
    registered.append(entry("Careful"))
    text = r"policy must be rule, threshold, careful or an exported folder, got 'nope'"
    with pytest.raises(ValueError, match=text):
        load_policy("nope")
