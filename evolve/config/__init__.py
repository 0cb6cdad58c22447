"""The settings of a runtime: frozen values with their rules, from code or from a YAML file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolve.config.rules import ConfigError
    from evolve.config.settings import (
        CaptureConfig,
        Config,
        JournalConfig,
        PlansConfig,
        PolicyConfig,
        WorkersConfig,
    )
    from evolve.config.yaml_file import load_config

_HOMES = {
    "CaptureConfig": "settings",
    "Config": "settings",
    "ConfigError": "rules",
    "JournalConfig": "settings",
    "PlansConfig": "settings",
    "PolicyConfig": "settings",
    "WorkersConfig": "settings",
    "load_config": "yaml_file",
}

__all__ = [
    "CaptureConfig",
    "Config",
    "ConfigError",
    "JournalConfig",
    "PlansConfig",
    "PolicyConfig",
    "WorkersConfig",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
