"""What is not written down as it is: credentials anywhere, control characters on a terminal. Standard library alone.

A URL keeps its scheme, host and path. Of a command (`pipe:...`) only what cannot hold a secret is kept: any of its
words may be one, in forms that nobody can list.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_URL = re.compile(
    r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)(?P<user>[^\s/?#'\"]+@)?(?P<place>[^\s?#'\"]*)(?P<rest>[?#][^\s'\"]*)?"
)
_COMMAND = re.compile(r"\bpipe:([^\n]*)")
_PROGRAM = re.compile(r"[\w.-]+")
_OPTION = re.compile(r"-[A-Za-z]{1,3}|--[a-z][a-z0-9-]*|-")  # longer than that, a value may stick to a short one
_PATH = re.compile(r"[\w{}*?\[\]$~,+/.-]*(/[\w{}*?\[\]$~,+/.-]*|\.\w{1,5})")
_BEFORE_SECRET = re.compile(r"-[HubpUkK]|--[^=]*(auth|cookie|cred|header|key|pass|secret|token|user|bearer)[^=]*")
_JOINS = ("|", "||", "&&", ";", "&", ">", "<", "2>")


def redact(text: str) -> str:
    """The text without the credentials of its URLs and commands; other text stays as it is."""
    return _COMMAND.sub(lambda found: f"pipe:{_command(found[1])}", _URL.sub(_url, text))


def printable(text: str) -> str:
    """The text as any terminal takes it: undecodable bytes and control characters, line ends too, are escaped.

    A file name may hold sequences that move the cursor, rename the window or rewrite what was printed before.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def redact_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they may be written down: every text of them, those in lists too."""
    return {key: _value(value) for key, value in values.items()}


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    return [_value(item) for item in value] if isinstance(value, (list, tuple)) else value


def _url(found: re.Match[str]) -> str:
    user = f"{HIDDEN}@" if found["user"] else ""
    rest = f"{found['rest'][0]}{HIDDEN}" if found["rest"] else ""
    return f"{found['scheme']}{user}{found['place']}{rest}"


def _command(text: str) -> str:
    """A shell command with the words that may hold a secret hidden."""
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote: where the words end is not known
        return HIDDEN
    kept, starts, secret = [], True, False
    for word in words:
        known = _PROGRAM.fullmatch(word) if starts else _OPTION.fullmatch(word) or _is_place(word)
        kept.append(word if word in _JOINS or (known and not secret) else HIDDEN)
        starts = word in _JOINS
        secret = _BEFORE_SECRET.fullmatch(word) is not None
    return " ".join(kept)


def _is_place(word: str) -> bool:
    return _PATH.fullmatch(word) is not None or _URL.fullmatch(word) is not None
