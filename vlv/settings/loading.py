"""Resolves a config from its layers: code default < recipe < the call's `key=value`, and saves it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from vlv.redaction import redact_values
from vlv.resources import find_recipe
from vlv.settings.declare import RECIPES, ConfigError, Setting, command_of, current_name, settings_of, shown
from vlv.settings.paths import is_shipped, resolve_path, short
from vlv.settings.values import convert

Config = TypeVar("Config")

CODE, CALL = "default", "the call"


@dataclass(frozen=True)
class Resolved(Generic[Config]):
    """A config, and who gave each of its values: the code, a recipe's path, or the call."""

    config: Config
    sources: Mapping[str, str]

    def as_yaml(self) -> str:
        """Every key with its value, and its source as a comment; can be read as a recipe."""
        lines = _yaml(self.config).splitlines()
        # A list's entries stand in lines of their own, which name no key and get no comment.
        keys = [line.partition(":")[0] for line in lines]
        return "\n".join(
            f"{line}  # {self.sources[key]}" if key in self.sources else line
            for key, line in zip(keys, lines, strict=True)
        )


def load_config(kind: type[Config], path: str | Path | None, overrides: list[str]) -> Config:
    """Resolve a config: the dataclass's defaults < the YAML file < `key=value` overrides.

    Raises:
        ConfigError: a missing or broken file, an unknown key (with the near one), or a bad value.
    """
    return resolve_config(kind, path, overrides).config


def resolve_config(kind: type[Config], path: str | Path | None, overrides: list[str]) -> Resolved[Config]:
    """Resolve a config as `load_config` does, and keep who gave each value.

    Raises:
        ConfigError: as `load_config`.
    """
    settings = settings_of(kind)
    recipe = find_recipe(str(path)) if path is not None else None
    given = _read_recipe(kind, recipe) if recipe is not None else {}
    called = dict(_parse_override(kind, text) for text in overrides)
    defaults = {name: setting.default for name, setting in settings.items()}
    named = "" if recipe is None else short(recipe)
    sources = dict.fromkeys(settings, CODE) | dict.fromkeys(given, named) | dict.fromkeys(called, CALL)
    of_project = {CODE, named} if recipe is not None and is_shipped(recipe) else {CODE}
    try:
        raw = _interpolated(defaults | given | called)
        values = {name: convert(setting, raw[name]) for name, setting in settings.items()}
        for name, value in values.items():
            if isinstance(value, str):
                values[name] = resolve_path(value, settings[name].path, sources[name] in of_project)
        return Resolved(kind(**values), sources)
    except ConfigError as error:
        # What the call gave is before the user's eyes; of a file's key they must be told where it stands.
        if error.key is None or sources[error.key] in (CODE, CALL):
            raise
        raise ConfigError(f"{error} (in {named})", error.key) from None


def recipe_values(kind: type, path: Path) -> dict[str, object]:
    """The values that a recipe means, each of its type but paths as they are written.

    Raises:
        ConfigError: as `load_config`.
    """
    settings = settings_of(kind)
    raw = _interpolated({name: setting.default for name, setting in settings.items()} | _read_recipe(kind, path))
    return {name: convert(setting, raw[name]) for name, setting in settings.items()}


def save_config(config: object, path: Path) -> None:
    """Write the resolved config as YAML, every key with its value; without the credentials of its paths."""
    path.write_text(_yaml(config))


def _yaml(config: object) -> str:
    from omegaconf import OmegaConf

    values = redact_values(dataclasses.asdict(config))  # type: ignore[call-overload]
    return OmegaConf.to_yaml(OmegaConf.create({key: _literal(value) for key, value in values.items()}))


def _interpolated(values: Mapping[str, object]) -> dict[str, object]:
    """Resolve `${name}` and `${oc.env:NAME,default}`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    resolved: dict[str, object] = {}
    key = None
    try:
        layered = OmegaConf.create(dict(values))  # a `${` that is not closed fails here, any other error below
        for key in values:
            value = layered[key]
            resolved[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        key = key or str(error.full_key)
        raise ConfigError(
            f"{key}={shown(values.get(key))} cannot be resolved: ${{...}} takes the name of a setting, or "
            "oc.env:NAME,default for a variable of the environment",
            key,
        ) from None
    return resolved


def _read_recipe(kind: type, path: Path) -> dict[str, object]:
    """The keys of a YAML file with their raw values.

    Raises:
        ConfigError: it cannot be read, is of another command, or has a key that the config lacks.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError, YAMLError

    if not path.is_file():
        raise ConfigError(f"config {short(path)} is not there; the recipes are in configs/")
    try:
        content = OmegaConf.load(path)
        values = OmegaConf.to_container(content, resolve=False)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"config {short(path)} is not valid YAML: {line}{error.problem}") from None
    except OmegaConfBaseException:
        raise ConfigError(f"config {short(path)} has a ${{...}} that is not closed") from None
    except (YAMLError, UnicodeDecodeError):
        raise ConfigError(f"config {short(path)} is not a text file of `key: value` lines") from None
    except OSError:  # a file with nothing but a number in it, too
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"config {short(path)} holds no settings: write a line `key: value` for each")
    given = {current_name(kind, str(key)): value for key, value in values.items()}
    _require_same_command(kind, path, given)
    for key in given:
        if key not in settings_of(kind):
            raise ConfigError(_unknown_key(kind, key, f"in {short(path)}"))
    return given


def _require_same_command(kind: type, path: Path, given: Mapping[str, object]) -> None:
    """Refuse a recipe of another command: by its name where it is one of ours, else by its keys."""
    wanted = command_of(kind)
    if wanted is None:
        return
    named = path.stem.split("_")[0] if is_shipped(path) else None
    if named not in RECIPES:
        fitting = [command for command, other in RECIPES.items() if given.keys() <= settings_of(other).keys()]
        named = wanted if wanted in fitting or not fitting else fitting[0]
    if named != wanted:
        raise ConfigError(
            f"{short(path)} is a recipe of {_title(named or '')}; this is {_title(wanted)}: "
            f"give one of configs/{wanted}*.yaml"
        )


def _title(command: str) -> str:
    """stage1 -> stage 1."""
    return re.sub(r"(\D)(\d)$", r"\1 \2", command)


def _parse_override(kind: type, text: str) -> tuple[str, object]:
    """Split `key=value`. A text setting takes what is there as it stands: paths may hold any character.

    `${name}` is read in YAML files and in settings that are no texts; in a path here it is part of the name.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not key=value")
    key = current_name(kind, key)
    setting = settings_of(kind).get(key)
    if setting is None:
        raise ConfigError(_unknown_key(kind, key, "on the command line"))
    if not value:
        raise ConfigError(f"{key}= is empty: give {setting.accepted}", key)
    if value == "null":
        return key, None
    if setting.value_hint is str:
        return key, _literal(value)
    return key, _parse_list(setting, value) if value.lstrip().startswith("[") else value


def _parse_list(setting: Setting, text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(
            f"{setting.name}={text} cannot be read: close every bracket and quote; give {setting.accepted}",
            setting.name,
        ) from None


def _literal(value: object) -> object:
    r"""A text that OmegaConf reads as it stands: ${x} becomes \${x}, and backslashes before it are doubled."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _unknown_key(kind: type, key: str, where: str) -> str:
    near = difflib.get_close_matches(key, settings_of(kind), n=1)
    owner = next((command for command, other in RECIPES.items() if key in settings_of(other)), None)
    hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
    return f"unknown key {key!r} {where}{f' (a setting of {_title(owner)})' if owner else ''}: {hint}"
