"""The Accelerate YAML of a call, which owns the parallelism and nothing else."""

from __future__ import annotations

from pathlib import Path

from vlv.config import ConfigError


def read_accelerate_config(path: str | None) -> dict[str, object]:
    """The settings of an Accelerate YAML; empty without one.

    Raises:
        ConfigError: the file is missing or broken.
    """
    import yaml

    if not path:
        return {}
    if not Path(path).is_file():
        raise ConfigError(f"accelerate_config={path} is not there; ready ones are in configs/accelerate/")
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"accelerate_config={path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"accelerate_config={path} holds no settings")
    return settings
