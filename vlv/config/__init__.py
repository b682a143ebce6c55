"""The settings of each command, as one flat frozen dataclass a recipe.

Flat on purpose: a key has one name, the same in the launcher, in the YAML and on the command line
(`lr=1e-4`). The groups are mixins, so that a setting that two recipes share is written once.
"""

from typing import TypeAlias

from vlv.config.benchmark import (
    BenchmarkAllConfig,
    BenchmarkDataConfig,
    BenchmarkGrowthConfig,
    BenchmarkIndexConfig,
    BenchmarkSaveConfig,
    BenchmarkSpeedConfig,
    BenchmarkStartupConfig,
)
from vlv.config.captioning import CaptionApiConfig
from vlv.config.chaos import ChaosConfig
from vlv.config.demo import DemoConfig
from vlv.config.groups import DataConfig, FormatConfig, OptimConfig, ReadingConfig, RunConfig
from vlv.config.inference import CaptionConfig, InferenceConfig, ReconstructConfig
from vlv.config.latents import LatentsConfig
from vlv.config.serve import ServeConfig
from vlv.config.tools import InspectDataConfig, ShardsConfig
from vlv.config.training import Stage1Config, Stage2Config, TrainingConfig
from vlv.settings import ConfigError, describe, load_config, save_config

LaunchConfig: TypeAlias = Stage1Config | Stage2Config | CaptionConfig | ReconstructConfig | LatentsConfig
"""The settings of a command that runs in processes of its own."""

__all__ = [
    "BenchmarkAllConfig",
    "BenchmarkDataConfig",
    "BenchmarkGrowthConfig",
    "BenchmarkIndexConfig",
    "BenchmarkSaveConfig",
    "BenchmarkSpeedConfig",
    "BenchmarkStartupConfig",
    "CaptionApiConfig",
    "CaptionConfig",
    "ChaosConfig",
    "ConfigError",
    "DataConfig",
    "DemoConfig",
    "FormatConfig",
    "InferenceConfig",
    "InspectDataConfig",
    "LatentsConfig",
    "LaunchConfig",
    "OptimConfig",
    "ReadingConfig",
    "ReconstructConfig",
    "RunConfig",
    "ServeConfig",
    "ShardsConfig",
    "Stage1Config",
    "Stage2Config",
    "TrainingConfig",
    "describe",
    "load_config",
    "save_config",
]
