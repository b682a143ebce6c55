"""Which folder a relative path starts from.

A path of the code or of a shipped recipe starts from the project's folder, so that a launcher may be called from
anywhere; one that the user wrote starts from where they call, as with any other command.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlv.resources import assets_folder, find_recipe, is_checkout, project_folder, recipes_folder
from vlv.settings.declare import PathKind

_STREAM = re.compile(r"\s*[a-z][a-z0-9+-]*:")  # pipe:, https:, s3:, hub-stream:


def short(path: Path) -> str:
    """A path for messages: relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def is_shipped(path: Path) -> bool:
    """Whether a recipe is one of the project's own."""
    return path.resolve().is_relative_to(recipes_folder().resolve())


def is_stream(value: str) -> bool:
    """Whether a value is a URL, or a command whose output is read (pipe:...), and no path."""
    return _STREAM.match(value) is not None


def resolve_path(value: str, kind: PathKind, of_project: bool) -> str:
    """A path setting's value as the run uses it; hub ids and streams stay.

    Args:
        of_project: whether code or a shipped recipe gave it, not the user.
    """
    if not kind or not value or is_stream(value):
        return value
    # In a YAML file, or in quotes, no shell has expanded it.
    if value.startswith("~"):
        return str(Path(value).expanduser())
    if kind == "shipped":
        return str(find_recipe(value))
    if not of_project or Path(value).is_absolute():
        return value
    if not is_checkout() and Path(value).parts[:1] == ("assets",):
        return str(assets_folder().joinpath(*Path(value).parts[1:]))  # the wheel brings them, the current folder not
    root = project_folder()
    if root == Path.cwd():
        return value
    if kind == "source" and not value.startswith(".") and not (root / value).exists():
        return value  # owner/name of a hub
    return str(root / value)
