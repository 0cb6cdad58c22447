"""The settings of a runtime: frozen values with their rules, from code or from a YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.lazy import lazy_exports

if TYPE_CHECKING:
    from evolve.config.rules import ConfigError
    from evolve.config.settings import (
        CaptureConfig,
        Config,
        EvolutionConfig,
        JournalConfig,
        PlansConfig,
        PolicyConfig,
        RolloutConfig,
        WorkersConfig,
    )
    from evolve.config.yaml_file import load_config
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "rules": "ConfigError",
            "settings": "CaptureConfig Config EvolutionConfig JournalConfig PlansConfig "
            "PolicyConfig RolloutConfig WorkersConfig",
            "yaml_file": "load_config",
        },
    )

__all__ = [
    "CaptureConfig",
    "Config",
    "ConfigError",
    "EvolutionConfig",
    "JournalConfig",
    "PlansConfig",
    "PolicyConfig",
    "RolloutConfig",
    "WorkersConfig",
    "load_config",
]
