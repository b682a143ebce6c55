"""Messages for what a setting names and is not there: a path or a package, and how to get it."""

from __future__ import annotations

from pathlib import Path

from vlv.checkpoints.identity import is_hub_id
from vlv.cli.download import COMPONENTS
from vlv.config import ConfigError, InferenceConfig, LaunchConfig
from vlv.extras import missing_packages
from vlv.settings.declare import settings_of
from vlv.settings.paths import is_stream

_PATTERN = set("*?[]{},")  # names of several files; what reads them says which are missing
# Settings that need packages of an extra: the extra, and their names.
_PACKAGES = {"quantize": ("quant", ("torchao", "bitsandbytes")), "lora_rank": ("peft", ("peft",))}


def check_present(config: LaunchConfig, *keys: str) -> None:
    """Check that what path settings name is there.

    Raises:
        ConfigError: the first that is not; names the setting, and the command that fetches or makes the thing.
    """
    for key in keys:
        value = getattr(config, key)
        setting = settings_of(type(config))[key]
        at_hub = setting.path == "source" and is_hub_id(value)
        if is_stream(value) or at_hub or _PATTERN & set(value) or Path(value).exists():
            continue
        variable = f" ({key.upper()} in the launcher)" if isinstance(config, InferenceConfig) else ""
        source = _download_of(value) or setting.source
        raise ConfigError(
            f"{key}={value} does not exist: set {key}{variable} to {setting.doc}{f'; {source}' if source else ''}", key
        )


def check_packages(config: object, key: str) -> None:
    """Check that the packages are there that a setting needs, where it is set.

    Raises:
        ConfigError: one is not; names the extra.
    """
    extra, names = _PACKAGES[key]
    value = getattr(config, key)
    if value is not None and (problem := missing_packages(f"{key}={value}", extra, *names)):
        raise ConfigError(problem)


def _download_of(path: str) -> str:
    """The command that fetches a component into a folder of this name; empty where there is none."""
    found = [part for part, component in COMPONENTS.items() if component.folder == Path(path).name]
    return f"vlv download {found[0]} fetches it" if found else ""
