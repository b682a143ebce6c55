"""What a setting is: a field of a frozen dataclass with its default, its meaning, its group and its kind of path."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

Kind = TypeVar("Kind")
Group = Literal["", "data", "model", "optimisation", "run", "logging"]
# local: a file or folder. source: one, or a hub id, or a stream. shipped: a file, also looked for in configs/.
PathKind = Literal["", "local", "source", "shipped"]

RECIPES: dict[str, type] = {}  # command -> config, of the commands that have recipes in configs/


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, the value and the fix.

    key: the setting, where it is one alone.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Setting:
    """One field of a config as loading and help see it.

    hint: the declared type. default: its value in code. path: which kind of path it is, if any.
    source: which command fetches or makes what the default names. former: names that it had before, still taken.
    """

    name: str
    hint: object
    default: object
    doc: str
    group: Group
    frequent: bool
    path: PathKind
    source: str
    former: tuple[str, ...]

    @property
    def optional(self) -> bool:
        """Whether null is a value."""
        return self.hint is not self.value_hint

    @property
    def value_hint(self) -> object:
        """The declared type without null."""
        # `Literal[...] | None` is a typing.Union, `int | None` a types.UnionType.
        if typing.get_origin(self.hint) not in (typing.Union, types.UnionType):
            return self.hint
        return next(hint for hint in typing.get_args(self.hint) if hint is not types.NoneType)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a Literal, or a list of one, takes; empty for other types."""
        hint = self.value_hint
        if typing.get_origin(hint) is list:
            hint = typing.get_args(hint)[0]
        return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()

    @property
    def accepted(self) -> str:
        """What can be given, as a message says it."""
        hint, words = self.value_hint, {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        if typing.get_origin(hint) is list:
            (item,) = typing.get_args(hint)
            what, example = {int: ("whole numbers", "1,2"), float: ("numbers", "0.9,0.99")}.get(item, ("words", "a,b"))
            if self.choices:
                what, example = f"one or more of {', '.join(self.choices)}", ",".join(self.choices[:2])
            accepted = f"{what if self.choices else f'a list of {what}'}, as in {self.name}=[{example}]"
        elif self.choices:
            accepted = f"one of {', '.join(self.choices)}"
        else:
            accepted = words.get(typing.cast(type, hint), "a value")
        return f"{accepted}, or null" if self.optional else accepted


def option(
    default: Any,
    doc: str,
    *,
    group: Group = "",
    frequent: bool = False,
    path: PathKind = "",
    source: str = "",
    former: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its default and what `--help` and the docs show of it.

    Args:
        default: the value in code, which a recipe and then the call overrule.
        doc: one sentence.
        group: heading in the help.
        frequent: listed first there.
        path: how a relative path is resolved, see `vlv.settings.paths`.
        source: which command fetches or makes what the default names, for messages.
        former: names that it had before.
    """
    metadata = {
        "doc": doc, "group": group, "frequent": frequent, "path": path, "source": source, "former": former
    }  # fmt: skip
    if isinstance(default, (list, dict)):
        # A copy for each config: dataclasses refuse a default that all of them would share.
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def recipe(command: str) -> Callable[[type[Kind]], type[Kind]]:
    """Class decorator: the config of a command whose recipes are `configs/<command>*.yaml`."""

    def register(kind: type[Kind]) -> type[Kind]:
        RECIPES[command] = kind
        return kind

    return register


def command_of(kind: type) -> str | None:
    """The command that a config belongs to; None for one without recipes."""
    return next((command for command, known in RECIPES.items() if known is kind), None)


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """The settings of a config dataclass by name, in the order in which it declares them."""
    # The fields hold their types as text (`from __future__ import annotations`).
    hints = typing.get_type_hints(kind)
    found = {}
    for item in dataclasses.fields(kind):
        made = item.default_factory
        default = item.default if made is dataclasses.MISSING else made()
        found[item.name] = Setting(item.name, hints[item.name], default, **item.metadata)
    return found


def current_name(kind: type, key: str) -> str:
    """The name of the setting that a key names by itself or by a former name; any other key stays."""
    return next((setting.name for setting in settings_of(kind).values() if key in setting.former), key)


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Raise ConfigError unless `condition`; used by every `__post_init__`."""
    if not condition:
        raise ConfigError(f"{key}={shown(value)} cannot be used: {wanted}", key)


def shown(value: object) -> str:
    """A value as a user writes it behind `key=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    return str(value)
