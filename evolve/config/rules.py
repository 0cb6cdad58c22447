"""A setting: a default, a meaning and a rule, stated once and checked everywhere alike."""

from __future__ import annotations

import difflib
import math
import typing
from dataclasses import MISSING, Field, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from evolve.errors import EvolveError

__all__ = ["ConfigError", "fitting", "hint_of", "option", "rule_of", "settings_table", "unknown"]

T = TypeVar("T")


class ConfigError(EvolveError, ValueError):
    """A setting breaks its rule. The message names it, the rule, the value and where it stands."""


def option(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    unset: str = "",
) -> T:
    """A setting with what it means and what it may be; `unset` says what None stands for."""
    meta = {"doc": doc, "low": low, "high": high, "choices": choices, "unset": unset}
    return field(default=default, metadata=meta)


def rule_of(owner: type, item: Field[Any]) -> str:
    """What a setting may be, in words: "a whole number from 1 to 64"."""
    kind, optional = hint_of(owner, item.name)
    meta = item.metadata
    if meta["choices"]:
        names = ", ".join(meta["choices"])
        words = f"one of {names}" if kind is str else f"a list of {names}"
    else:
        words = {
            bool: "true or false", int: "a whole number", float: "a number", Path: "a path",
            tuple[str, ...]: "a list of names",
        }[kind]  # fmt: skip
    if meta["low"] is not None:
        words += f" from {meta['low']} to {meta['high']}"
    return words + (", or unset" if optional else "")


@cache
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def hint_of(owner: type, name: str) -> tuple[Any, bool]:
    """The type of a setting without its None, and whether it may be None."""
    hint = _hints(owner)[name]
    parts = typing.get_args(hint)
    if type(None) in parts:
        return next(part for part in parts if part is not type(None)), True
    return hint, False


def unknown(key: object, known: tuple[str, ...], prefix: str) -> str:
    """The error text for a key that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
    remedy = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"setting must be a known one, got {prefix + str(key)!r}; {remedy}"


def fitting(owner: type, item: Field[Any], name: str, value: object) -> Any:
    """`value` as the setting holds it. Raises `ConfigError` naming `name`, the rule, the value."""
    kind, optional = hint_of(owner, item.name)
    if value is None and optional:
        return None
    fit = _fit(kind, value)
    meta = item.metadata
    if isinstance(fit, (int, float)) and not isinstance(fit, bool) and meta["low"] is not None:
        fit = fit if meta["low"] <= fit <= meta["high"] else None
    names = fit if isinstance(fit, tuple) else (fit,)
    if meta["choices"]:
        wrong = [n for n in names if n not in meta["choices"]]
        if fit is not None and wrong:
            near = difflib.get_close_matches(str(wrong[0]), meta["choices"], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{name} must be {rule_of(owner, item)}, got {wrong[0]!r}{hint}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{name} must name each only once, got {list(names)}")
    if fit is None:
        got = "nothing" if value is None else _shown(value)
        raise ConfigError(f"{name} must be {rule_of(owner, item)}, got {got}")
    return fit


def _shown(value: object) -> str:
    """A value as an error tells it: one of 5,000 digits would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number that long
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def _fit(kind: Any, value: object) -> Any:
    """`value` as `kind`, None where it is not one; no conversions but int → float and the like."""
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is float and isinstance(value, (int, float)):
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:  # a whole number of 400 digits
            return None
    if (
        kind is Path
        and isinstance(value, (str, Path))
        and str(value).strip()
        and "\0" not in str(value)
    ):
        return Path(value).expanduser()
    if kind in (int, str) and isinstance(value, kind):
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return tuple(value) if all(isinstance(v, str) for v in value) else None
    return None


def settings_table(owner: type, prefix: str = "") -> str:
    """All settings as Markdown tables, one per section (see docs/configuration.md)."""
    own: list[str] = []
    sections: list[str] = []
    for item in fields(owner):
        if item.default is MISSING:
            section = hint_of(owner, item.name)[0]
            title = f"### `{item.name}`\n\n{section.__doc__}"
            sections.append(f"{title}\n\n{settings_table(section, item.name + '.')}")
        else:
            own.append(
                f"| `{prefix}{item.name}` | {_default(item)} | {rule_of(owner, item)} "
                f"| {item.metadata['doc']} |"
            )
    head = "| setting | default | must be | what it does |\n|---|---|---|---|\n"
    return "\n\n".join([head + "\n".join(own), *sections])


def _default(item: Field[Any]) -> str:
    value = item.default
    if value is None:
        return f"unset: {item.metadata['unset']}"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{value}`"
