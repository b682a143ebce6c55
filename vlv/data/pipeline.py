"""The command of `pipe:`: programs joined by `|`, run without a shell.

A shell would run whatever a path holds (`;`, `$(...)`), and report the last program's failure alone: a download that
breaks before a `| cat` would end as a short file.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass, field
from typing import IO

_OPERATORS = "|&;<>()"
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Program:
    """A program with its arguments, and what it has in its environment beside ours."""

    arguments: list[str]
    variables: dict[str, str] = field(default_factory=dict)


def parse_pipeline(command: str) -> list[Program]:
    """Split a command as a shell would, quotes, `~`, `$NAME` and `NAME=value` before a program included.

    Raises:
        ValueError: an operator other than `|`, an open quote, or no program.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split, lexer.commenters = True, ""
    programs: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            programs.append([])
        elif word and not set(word) - set(_OPERATORS):
            raise ValueError(f"{word} has no meaning without a shell: quote it, or put the commands into a script")
        else:
            # After the split, so that no value is split; expanduser does nothing within a word.
            programs[-1].append(os.path.expandvars(os.path.expanduser(word)))
    return [_program(words) for words in programs]


def _program(words: list[str]) -> Program:
    variables: dict[str, str] = {}
    while words and (setting := _VARIABLE.fullmatch(words[0])):
        variables[setting[1]] = setting[2]
        words = words[1:]
    if not words:
        raise ValueError("a program is missing")
    return Program(words, variables)


class Pipeline:
    """Running programs, each reading what the one before it writes; `output` is what the last one writes."""

    def __init__(self, command: str) -> None:
        """Start them.

        Raises:
            ValueError: the command cannot be run without a shell.
            OSError: a program is not there.
        """
        self._processes: list[subprocess.Popen[bytes]] = []
        source: int | IO[bytes] = subprocess.DEVNULL
        try:
            for program in parse_pipeline(command):
                environment = {**os.environ, **program.variables}
                process = subprocess.Popen(
                    program.arguments, stdin=source, stdout=subprocess.PIPE, bufsize=0, env=environment
                )
                self._processes.append(process)
                if not isinstance(source, int):
                    source.close()  # ours; else the program before would not hear that this one has ended
                assert process.stdout is not None
                source = process.stdout
        except BaseException:
            self.close()
            raise
        assert not isinstance(source, int)
        self.output: IO[bytes] = source

    def failure(self) -> int:
        """Wait for the end; the first program's status that is no success, else 0.

        A program that writes to one that has read enough ends by SIGPIPE, which is none of a failure.
        """
        *others, last = (process.wait() for process in self._processes)
        return next((code for code in others if code not in (0, -signal.SIGPIPE)), last)

    def close(self) -> None:
        """End what still runs."""
        for process in self._processes:
            if process.stdout is not None:
                process.stdout.close()
            process.terminate()
        for process in self._processes:
            process.wait()
