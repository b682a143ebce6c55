"""From what a YAML file or a call gives to the declared type of a setting; one message for all that does not fit."""

from __future__ import annotations

import math
import typing
from typing import Literal

from vlv.settings.declare import ConfigError, Setting, shown

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def convert(setting: Setting, value: object) -> object:
    """A value as the setting's type.

    Args:
        value: what YAML gives (text, number, bool, list, None), or the text behind `key=`.

    Raises:
        ConfigError: it is none of that type; names key, value and what is accepted.
    """
    if value is None and setting.optional:
        return None
    if isinstance(value, str) and not value.strip() and setting.value_hint is not str:
        raise ConfigError(f"{setting.name}= is empty: give {setting.accepted}", setting.name)
    try:
        if value is None:
            raise ValueError
        return _converted(setting.value_hint, value)
    except ValueError:
        raise ConfigError(
            f"{setting.name}={shown(value)} cannot be used: give {setting.accepted}", setting.name
        ) from None


def _converted(hint: object, value: object) -> object:
    if typing.get_origin(hint) is list:
        items = value if isinstance(value, list) else _split(value)
        (item_hint,) = typing.get_args(hint)
        return [_converted(item_hint, item) for item in items]
    if isinstance(value, (list, dict)) or value is None:
        raise ValueError
    if typing.get_origin(hint) is Literal:
        return _word(typing.get_args(hint), value)
    if hint is str:
        return shown(value)  # a run may be called 7: YAML makes a number of it
    if hint is bool:
        return _TRUTH[str(value).strip().lower()] if str(value).strip().lower() in _TRUTH else _refuse()
    return _number(hint, value)


def _split(value: object) -> list[object]:
    """One value, or several in a text: `1 2 3` and `1,2,3`, as variables of a shell hold them."""
    if isinstance(value, str):
        return [*value.replace(",", " ").split()]
    return [value]


def _word(choices: tuple[str, ...], value: object) -> str:
    word = str(value)
    if word in choices:
        return word
    # YAML 1.1 reads the words off and on as truth values; and what can be on or off can be true or false.
    truth = _TRUTH.get(word.strip().lower())
    switch = "" if truth is None else "on" if truth else "off"
    return switch if switch in choices else _refuse()


def _number(hint: object, value: object) -> int | float:
    if isinstance(value, bool):
        raise ValueError
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError
    if hint is float:
        return number
    if isinstance(value, int):
        return value
    if str(value).strip().lstrip("+-").isdigit():
        return int(str(value))  # not by the float, which rounds seeds above 2**53
    return int(number) if number.is_integer() else _refuse()  # 1e4 is a whole number too


def _refuse() -> typing.NoReturn:
    raise ValueError
