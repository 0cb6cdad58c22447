"""Settings: every wrong one is named with file, line, key, rule and value; none passes."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.config import (
    CaptureConfig,
    Config,
    ConfigError,
    JournalConfig,
    PlansConfig,
    PolicyConfig,
    WorkersConfig,
    load_config,
)
from evolve.config.rules import settings_table

ROOT = Path(__file__).parents[3]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "evolve.yaml"
        path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        return path

    return write


# -- what is right ------------------------------------------------------------------------------


def test_defaults() -> None:
    config = Config()
    assert config.workers == WorkersConfig("thread", None, None, None)
    assert config.plans == PlansConfig(
        backends=None,
        precisions=("fp32", "mixed", "int8", "bf16"),
        build=True,
        budget_s=300.0,
        cache_dir=None,
        max_rows=16,
        resident=16,
    )
    assert config.capture == CaptureConfig(wait_s=2.0, limit_s=120.0, still_s=3.0)
    assert config.policy == PolicyConfig("rule", None)
    assert config.journal == JournalConfig(None, 1000, 256.0)
    assert (config.tick_ms, config.queue_limit, config.seed) == (100.0, 4096, 0)


def test_a_whole_file(write: Any, tmp_path: Path) -> None:
    path = write(
        """
# Comments are fine.
workers: {kind: process, count: 2, threads: 1, hang_timeout_s: 5}
plans:
  backends: [onnxruntime, openvino]
  precisions:
    - fp32
  build: false
  cache_dir: ~/plans
  max_rows: 8
policy:
  name: ppo
  path: trained
journal: {path: /var/log/journal.jsonl, keep: 50, max_mib: 1.5}
tick_ms: 50
queue_limit: 100
seed: 7
"""
    )
    assert load_config(path) == Config(
        workers=WorkersConfig("process", 2, 1, 5.0),
        plans=PlansConfig(
            backends=("onnxruntime", "openvino"),
            precisions=("fp32",),
            build=False,
            cache_dir=Path.home() / "plans",
            max_rows=8,
        ),
        policy=PolicyConfig("ppo", tmp_path / "trained"),
        journal=JournalConfig(Path("/var/log/journal.jsonl"), 50, 1.5),
        tick_ms=50.0,
        queue_limit=100,
        seed=7,
    )


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null", "workers:\n"])
def test_what_says_nothing_changes_nothing(write: Any, text: str) -> None:
    assert load_config(write(text)) == Config()


def test_a_byte_order_mark_is_no_content(write: Any) -> None:
    assert load_config(write(b"\xef\xbb\xbfseed: 3\n")).seed == 3


def test_optional_settings_can_be_unset_again(write: Any) -> None:
    assert load_config(write("workers: {count: null}\nplans: {backends: ~}\n")) == Config()


def test_values_take_the_type_of_their_setting() -> None:
    config = Config(tick_ms=50, plans=PlansConfig(backends=["eager"], cache_dir="x"))  # type: ignore[arg-type]
    assert isinstance(config.tick_ms, float)
    assert config.plans.backends == ("eager",)
    assert config.plans.cache_dir == Path("x")
    hash(config)


def test_replace_changes_what_is_named_and_nothing_else() -> None:
    config = Config(seed=3)
    changed = config.replace(workers={"count": 2}, plans=PlansConfig(max_rows=4), tick_ms=20)
    assert changed == Config(
        workers=WorkersConfig(count=2), plans=PlansConfig(max_rows=4), tick_ms=20.0, seed=3
    )
    assert config == Config(seed=3)


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().workers.count = 3  # type: ignore[misc]


# -- what is wrong ------------------------------------------------------------------------------

WRONG = [
    (
        "seed: 1\nworker: {}\n",
        2,
        "setting must be a known one, got 'worker'; did you mean workers?",
    ),
    (
        "workers:\n  count: 2\n  thread: 1\n",
        3,
        "setting must be a known one, got 'workers.thread'; did you mean workers.threads?",
    ),
    ("zzz: 1\n", 1, "setting must be a known one, got 'zzz'; known here: workers, capture, plans,"),
    ("1: 2\n", 1, "setting must be a known one, got '1'"),
    ("? [a]\n: 1\n", 1, "setting must be a known one, got 'a list'"),
    ("<<: {seed: 1}\n", 1, "setting must be a known one, got '<<'"),
    ("\n\nseed: x\n", 3, "seed must be a whole number from 0 to 4294967295, got 'x'"),
    ("seed: 1.0\n", 1, "seed must be a whole number .*, got 1.0"),
    ("seed: true\n", 1, "seed must be a whole number .*, got True"),
    ("seed:\n", 1, "seed must be a whole number .*, got nothing"),
    ("seed: {a: 1}\n", 1, "seed must be a whole number .*, got a mapping"),
    ("seed: [1]\n", 1, r"seed must be a whole number .*, got \[1\]"),
    ("seed: 2020-01-01\n", 1, "seed must be a whole number .*, got '2020-01-01'"),
    ("seed: -1\n", 1, "seed must be .*, got -1"),
    ("tick_ms: 0.5\n", 1, "tick_ms must be a number from 1 to 60000, got 0.5"),
    ("tick_ms: .nan\n", 1, "tick_ms must be a number from 1 to 60000, got nan"),
    ("tick_ms: .inf\n", 1, "tick_ms must be a number from 1 to 60000, got inf"),
    ("workers: {count: 0}\n", 1, "workers.count must be a whole number from 1 to 1024, or unset"),
    ("workers: 3\n", 1, "workers must be settings .key: value., got '3'"),
    ("workers: [a]\n", 1, "workers must be settings .key: value., got a list"),
    (
        "workers:\n  kind: proces\n",
        2,
        "workers.kind must be one of thread, process, got 'proces'; did you mean process?",
    ),
    ("workers: {kind: no}\n", 1, "workers.kind must be one of thread, process, got False"),
    ("plans: {build: 1}\n", 1, "plans.build must be true or false, got 1"),
    (
        "plans:\n  backends:\n    - onnxrutime\n",
        2,
        "plans.backends must be a list of .*, got 'onnxrutime'; did you mean onnxruntime?",
    ),
    ("plans: {backends: onnxruntime}\n", 1, "plans.backends must be a list of .*, or unset, got"),
    ("plans: {precisions: [fp32, 8]}\n", 1, r"plans.precisions must be a list .* \['fp32', 8\]"),
    ("plans: {precisions: [fp32, fp32]}\n", 1, "plans.precisions must name each only once"),
    ("plans: {only: aoti-fp32-t1-8d3c}\n", 1, "plans.only must be a list of names, or unset"),
    ("plans: {only: [a, b, a]}\n", 1, "plans.only must name each only once"),
    ("plans: {cache_dir: ''}\n", 1, "plans.cache_dir must be a path, or unset, got ''"),
    ('plans: {cache_dir: "a\\0b"}\n', 1, "plans.cache_dir must be a path, or unset"),
    ("seed: 1\ntick_ms: 5\nseed: 2\n", 3, r"seed must be set only once, .*first on line 1\)"),
    ("policy: {name: rule, name: rule}\n", 1, "policy.name must be set only once"),
    ("policy:\n  name: ppo\n", 2, "policy.path must be the folder of an exported policy when"),
    ("- seed\n", 1, r"the file must be settings \(key: value\), got a list"),
    ("seed\n", 1, "the file must be settings .key: value., got 'seed'"),
    ("seed: !!int 3\n", 1, r"must be plain values, tags \(!…\) are not allowed"),
    ("a: 1\nseed: !!python/object/apply:os.system [x]\n", 2, "must be plain values, tags"),
    ("seed: &a 3\n", 1, "must be plain values, anchors"),
    ("seed: 1\nworkers: *a\n", 2, "must be plain values, aliases"),
    ("seed: 1\n  tick_ms: 2\n", 2, "must be valid YAML, but"),
    ("workers: {count: 2\nseed: 3\n", 2, "must be valid YAML, but"),
    ("seed: 1\n---\nseed: 2\n", 2, "must be valid YAML, but .*single document"),
    ("seed: 1\nplans: \x07\n", 2, "must be valid YAML, but it holds character 0x7"),
    ("[" * 5000, 1, "must be valid YAML, but it is nested too deeply"),
    ("seed: 1\na: " + "{b: " * 5000, 1, "must be valid YAML, but it is nested too deeply"),
    ("tick_ms: " + "9" * 400, 1, r"tick_ms must be a number .*, got 9{60}… \(400 characters\)$"),
    ("tick_ms: -" + "9" * 400, 1, r"tick_ms must be a number from 1 to 60000, got -9+…"),
    ("seed: " + "9" * 9000, 1, r"seed must be a whole number .*9+… \(9002 characters\)$"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_line(
    write: Any, text: str, line: int, message: str
) -> None:
    path = write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    told = str(caught.value)
    assert told.startswith(f"{path}:{line}: ")
    assert "\n" not in told


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config must be a file that can be read, got .*none"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="config must be a file that can be read"):
        load_config(tmp_path)


def test_text_in_another_encoding_is_named_with_its_line(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"evolve\.yaml:2: must be UTF-8 text"):
        load_config(write(b"seed: 1\n# \xe4\n"))


def test_a_huge_file_is_not_read(write: Any) -> None:
    with pytest.raises(ConfigError, match="config must be at most 1048576 bytes"):
        load_config(write(b"# " + b"x" * 2_000_000))


def test_the_remedy_of_unknown_settings_is_harmless_to_print(write: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write('"\\e[31mred": 1\n'))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(tick_ms=0), "tick_ms must be a number from 1 to 60000, got 0"),
        (lambda: Config(seed=True), "seed must be a whole number .*, got True"),
        (lambda: Config(workers=None), "workers must be WorkersConfig.*, got None"),  # type: ignore[arg-type]
        (lambda: WorkersConfig(kind="threads"), "workers.kind must be .* did you mean thread"),
        (lambda: PlansConfig(budget_s=math.nan), "plans.budget_s must be .*, got nan"),
        (lambda: Config().replace(tick=1), "setting must be a known one.*did you mean tick_ms"),
        (lambda: Config().replace(workers={"cout": 1}), "did you mean workers.count"),
        (lambda: Config().replace(workers=3), "workers must be WorkersConfig.*, got 3"),
        (lambda: PolicyConfig(name="ppo"), "policy.path must be the folder"),
    ],
)
def test_code_obeys_the_same_rules(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text() | st.text("{}[]:,-?!&*'\"#\n \t|>%@`abc019.~", max_size=40))
def test_any_text_gives_settings_or_a_named_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evolve.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = ""
    try:
        load_config(path)
    except ConfigError as error:
        told = str(error)
    assert not told or re.match(rf"{re.escape(str(path))}:\d+: \S", told)
    assert told.isprintable()


# -- documentation ------------------------------------------------------------------------------


def test_the_documented_settings_are_those_that_exist() -> None:
    """To renew it: `python -m evolve.cli.document`."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert settings_table(Config) in text


def test_the_example_in_the_documentation_loads(write: Any) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert load_config(write(example)).workers.count == 2


@pytest.mark.parametrize(
    "section", [Config, WorkersConfig, CaptureConfig, PlansConfig, PolicyConfig, JournalConfig]
)
def test_every_number_has_limits_and_every_setting_a_meaning(section: type) -> None:
    for item in fields(section):
        if "doc" in item.metadata:
            assert item.metadata["doc"].endswith(".")
            if isinstance(item.default, (int, float)) and not isinstance(item.default, bool):
                assert item.metadata["low"] < item.metadata["high"]
            if item.default is None:
                assert item.metadata["unset"]
