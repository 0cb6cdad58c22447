"""Reading `Config` from YAML so that every error names the file and the line.

The safe subset only: plain scalars, lists and mappings. Tags, anchors and aliases are refused:
nothing in a settings file may construct objects or expand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from evolve.config.rules import ConfigError, fitting, hint_of, unknown
from evolve.config.settings import Config
from evolve.journal.decision import printable

LIMIT_BYTES = 1 << 20
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


T = TypeVar("T")


def load_config(path: Path | str) -> Config:
    """The settings in a YAML file; what it does not mention keeps its default.

    Relative paths in it start from the file's own folder. Raises `ConfigError` with file and
    line for anything that is not a known key with a value its rule allows.
    """
    path = Path(path)
    root = _root(path)
    if root is None:
        return Config()  # an empty file changes nothing
    config: Config = _section(Config, root, path, "")
    return config


def load_flat(path: Path, defaults: T) -> T:
    """`defaults` (any frozen dataclass of plain values) with what the file sets.

    A value must be of the kind its default is; the dataclass's own checks follow.
    """
    root = _root(path)
    known = {item.name: getattr(defaults, item.name) for item in fields(cast("Any", defaults))}
    changes: dict[str, object] = {}
    for key, key_node, value_node in _pairs(root, tuple(known), path, "") if root else ():
        value = _value(value_node)
        if type(known[key]) is float and type(value) is int:
            with contextlib.suppress(OverflowError):
                value = float(value)
        if isinstance(known[key], tuple) and isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(known[key]):
            kind = _KINDS[type(known[key])]
            raise _at(path, key_node, f"{key} must be {kind}, got {value!r}")
        changes[key] = value
    try:
        return cast("T", replace(cast("Any", defaults), **changes))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _root(path: Path) -> yaml.Node | None:
    """The document's top node, checked to be plain; None where the file says nothing."""
    text = _text(path)
    try:
        _refuse_tags(path, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{path}:{line}: must be valid YAML, but {what}") from None
    except yaml.reader.ReaderError as error:  # a character that YAML does not allow
        line = text[: error.position].count("\n") + 1
        what = f"character {error.character:#x}: {error.reason}"
        raise ConfigError(f"{path}:{line}: must be valid YAML, but it holds {what}") from None
    except RecursionError:
        raise ConfigError(f"{path}:1: must be valid YAML, but it is nested too deeply") from None
    return None if root is None or root.tag.endswith(":null") else root


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"config must be a file that can be read, got {path} ({why})") from None
    if len(raw) > LIMIT_BYTES:
        raise ConfigError(f"config must be at most {LIMIT_BYTES} bytes, got a larger file, {path}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: must be UTF-8 text, but {error.reason}") from None


def _refuse_tags(path: Path, text: str) -> None:
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        name = {
            yaml.TagToken: "tags (!…)",
            yaml.AnchorToken: "anchors (&…)",
            yaml.AliasToken: "aliases (*…)",
        }.get(type(token))
        if name:
            line = token.start_mark.line + 1
            raise ConfigError(f"{path}:{line}: must be plain values, {name} are not allowed")


def _section(owner: type, node: yaml.Node, path: Path, prefix: str) -> Any:
    """One section (or the whole) as its dataclass, each key checked where it stands."""
    items: dict[str, Field[Any]] = {item.name: item for item in fields(owner)}
    values: dict[str, Any] = {}
    first_line = node.start_mark.line + 1
    for key, key_node, value_node in _pairs(node, tuple(items), path, prefix):
        first_line = first_line if values else key_node.start_mark.line + 1
        values[key] = _setting(owner, items[key], (key_node, value_node), path, prefix + key)
    try:
        return owner(**values)
    except ConfigError as error:  # a rule over several settings: the first of them says where
        raise ConfigError(f"{path}:{first_line}: {error}") from None


def _pairs(
    node: yaml.Node, known: tuple[str, ...], path: Path, prefix: str
) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """(key, its node, its value's node), each key known and given once."""
    if not isinstance(node, yaml.MappingNode):
        name = prefix.rstrip(".") or "the file"
        raise _at(path, node, f"{name} must be settings (key: value), got {_words(node)}")
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else _words(key_node)
        if key not in known:
            raise _at(path, key_node, unknown(printable(key, 100), known, prefix))
        if key in lines:
            raise _at(
                path,
                key_node,
                f"{prefix}{key} must be set only once, got it again (first on line {lines[key]})",
            )
        lines[key] = key_node.start_mark.line + 1
        yield key, key_node, value_node


def _setting(
    owner: type, item: Field[Any], pair: tuple[yaml.Node, yaml.Node], path: Path, name: str
) -> Any:
    key_node, node = pair
    if item.default is MISSING:
        section = hint_of(owner, item.name)[0]
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
            return section()  # "workers:" with nothing under it
        return _section(section, node, path, name + ".")
    try:
        value = fitting(owner, item, name, _value(node))
    except ConfigError as error:
        raise _at(path, key_node, str(error)) from None
    if isinstance(value, Path):
        return path.absolute().parent / value
    return value


def _value(node: yaml.Node) -> object:
    """A scalar or a list of scalars as Python values; anything else as words that fit no rule."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(child) for child in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN:
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            return node.value
    return _Odd(_words(node))


class _Odd:
    """A value that no setting takes, shown in the error as it is described."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


def _words(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return repr(printable(node.value, 100))


def _at(path: Path, node: yaml.Node, problem: str) -> ConfigError:
    return ConfigError(f"{path}:{node.start_mark.line + 1}: {problem}")
