"""A table of commands, each of which is loaded when it is called: `vlv COMMAND`, and the tools of `vlv data TOOL`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from vlv.cli.entry import BAD_CALL, print_out, stop


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Args:
        module: its `main(arguments)` does the work; imported when the command is called.
        summary: one line for the help.
        with_name: the arguments begin with the command's name, where several commands share a module.
    """

    module: str
    summary: str
    with_name: bool = False


def launched(summary: str) -> Command:
    """A command that runs in processes of its own."""
    return Command("vlv.cli.launch", summary, with_name=True)


def call_command(
    arguments: Sequence[str], commands: Mapping[str, Command], usage: Callable[[], str], unknown: str, prefix: str = ""
) -> None:
    """Find the command that the arguments begin with and run it; `--help` is answered here.

    Args:
        unknown: what a message says before a name that is none.
        prefix: of the names, as modules that several commands share know them.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print_out(usage())
        raise SystemExit(0 if arguments else BAD_CALL)
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(commands)}"
        stop(f"{unknown} {name!r}: {hint}", BAD_CALL)
    command = commands[name]
    import_module(command.module).main([f"{prefix}{name}", *rest] if command.with_name else rest)


def summaries(commands: Mapping[str, Command]) -> str:
    """A line for each command."""
    width = max(map(len, commands))
    return "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())
