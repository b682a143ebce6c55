"""How a recipe's settings are declared, loaded, checked, saved and described.

Loads neither torch nor transformers: `--help` and the checks of a call stay quick.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

AnyConfig = TypeVar("AnyConfig")


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, the value and the fix."""


def option(default: Any, doc: str) -> Any:
    """A dataclass field with its default and the sentence that `--help` and the docs show."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Raise ConfigError unless `condition`; used by every `__post_init__`."""
    if not condition:
        raise ConfigError(f"{key}={value!r} cannot be used: {wanted}")


def load_config(kind: type[AnyConfig], path: str | Path | None, overrides: list[str]) -> AnyConfig:
    """Resolve a config: the dataclass's defaults < the YAML file < `key=value` overrides.

    Raises:
        ConfigError: a missing or broken file, an unknown key (with the near one), or a bad value.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    layers = [OmegaConf.structured(kind)]
    where = str(path)
    try:
        if path is not None:
            layers.append(_read_yaml(Path(path)))
            OmegaConf.merge(*layers)  # checked by itself, so that an error can say where the key stands
        where = "the command line"
        layers.append(OmegaConf.create(dict(_parse_override(kind, text) for text in overrides)))
        merged = OmegaConf.merge(*layers)
        where = f"{path} and the command line"
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise ConfigError(_unknown_key(kind, error.full_key or "", where)) from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key or 'config'} in {where}: {reason}") from None


def save_config(config: object, path: Path) -> None:
    """Write the resolved config as YAML, every key with its value."""
    from omegaconf import OmegaConf

    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    written = {key: _escape(value) if isinstance(value, str) else value for key, value in values.items()}
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(written)))


def describe(kind: type) -> str:
    """Every setting with its default and meaning, a line each: what `--help` prints."""
    lines = []
    for item in dataclasses.fields(kind):
        made = item.default_factory is not dataclasses.MISSING
        default = item.default_factory() if made else item.default  # type: ignore[misc]
        lines.append(f"  {item.name}={'null' if default is None else default}\n      {item.metadata['doc']}")
    return "\n".join(lines)


def _read_yaml(path: Path) -> Any:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    if not path.is_file():
        raise ConfigError(f"config {path} is not there; the recipes are in configs/")
    try:
        return OmegaConf.load(path)
    except YAMLError as error:
        raise ConfigError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from None


def _parse_override(kind: type, text: str) -> tuple[str, Any]:
    """Split `key=value`. A string setting takes the text as it stands: paths may hold any character.

    `${name}` is read in YAML files and in settings that are no strings; in a path here it is part of the name.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not key=value")
    types = {item.name: str(item.type) for item in dataclasses.fields(kind)}
    if types.get(key) in ("str", "str | None"):
        return key, None if value == "null" and "None" in types[key] else _escape(value)
    try:
        return key, OmegaConf.from_dotlist([f"value={value}"]).value
    except YAMLError:
        raise ConfigError(f"{text!r} cannot be read: close every bracket and quote, as in betas=[0.9,0.99]") from None


def _escape(text: str) -> str:
    r"""Write a text so that OmegaConf reads it as it stands: ${x} as \${x}, and backslashes before it doubled."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _unknown_key(kind: type, key: str, where: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, [item.name for item in dataclasses.fields(kind)], n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
    return f"unknown key {key!r} in {where}: {hint}"
