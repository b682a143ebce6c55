"""What `--help` prints of a config: every setting with its default, its meaning and its choices, in groups."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

from vlv.resources import find_recipe
from vlv.settings.declare import Group, Setting, settings_of, shown
from vlv.settings.loading import recipe_values

FREQUENT = "most used"


def describe(kind: type, path: str | Path | None = None) -> str:
    """The settings of a config, the frequent ones first, the others under their groups.

    Args:
        path: a recipe, whose values are then shown as the defaults.

    Raises:
        ConfigError: the recipe cannot be used.
    """
    settings = settings_of(kind)
    defaults = {name: setting.default for name, setting in settings.items()}
    if path is not None:
        defaults = recipe_values(kind, find_recipe(str(path)))
    groups: dict[str, list[Setting]] = {group: [] for group in (FREQUENT, *typing.get_args(Group))}
    order = list(groups)
    for setting in sorted(settings.values(), key=lambda setting: order.index(setting.group)):
        groups[FREQUENT if setting.frequent else setting.group].append(setting)
    lines = []
    for group, members in groups.items():
        lines += [f"{group}:"] if group and members else []
        lines += [line for setting in members for line in _lines(setting, defaults[setting.name])]
    return "\n".join(lines)


def _lines(setting: Setting, default: object) -> Iterator[str]:
    yield f"  {setting.name}={shown(default)}"
    yield f"      {setting.doc}"
    if setting.choices:
        yield f"      {setting.accepted}"
