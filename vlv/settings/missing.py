"""What a message advises where a setting names something that is not there."""

from __future__ import annotations

from vlv.settings.declare import settings_of


def how_to_get(kind: type, key: str) -> str:
    """How the thing that a setting names is got: which setting to give, and the command that fetches or makes it."""
    setting = settings_of(kind)[key]
    fetch = f", or get it: {setting.fetch}" if setting.fetch else ""
    return f"set {key} ({setting.doc}){fetch}"
