"""Packages of pyproject.toml's extras: what is said where one is missing. Standard library alone."""

from __future__ import annotations

from importlib.util import find_spec


def missing_packages(what: str, extra: str, *names: str) -> str | None:
    """One line of which packages something needs, and the command that installs them; None where all are there.

    Args:
        what: a setting with its value, or a command.
        extra: that brings the packages.
        names: as they are imported.
    """
    missing = [name for name in names if find_spec(name) is None]
    if not missing:
        return None
    return f"{what} needs the package{'s' if len(missing) > 1 else ''} {', '.join(missing)}: pip install 'vlv[{extra}]'"
