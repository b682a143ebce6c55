"""What every command does around its own work: `--help`, the settings, and a failure in one line.

Imports nothing that is heavy, and nothing at all that may be missing from the environment before it is needed.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from vlv.extras import missing_packages
from vlv.memory import is_out_of_memory
from vlv.redaction import printable, redact
from vlv.resources import find_recipe

Config = TypeVar("Config")

BAD_CALL, FAILED_RUN, INTERRUPTED = 2, 1, 130
# What gloo and NCCL say where another process has gone; in front of it stand their own sources' paths.
_LOST_PEER = re.compile(r"(?s)gloo/transport/.*Connection (reset|closed) by peer|ncclRemoteError")


@dataclass(frozen=True)
class Call:
    """How a command is called.

    Args:
        program: as the user types it, `vlv stage1`.
        doc: what it does, for `--help`.
        positional: settings that may be given by place instead of `key=value`, in order; a list takes all the rest.
        recipe: read where no `--config` is given.
    """

    program: str
    doc: str
    positional: tuple[str, ...] = ()
    recipe: Path | None = None


def parse(kind: type[Config], call: Call, arguments: list[str]) -> Config:
    """Read `[PATH ...] [--config FILE] [key=value ...]`; prints the help, or one line, and exits where that is all.

    Args:
        kind: the config dataclass.
    """
    from vlv.settings import ConfigError, resolve_config

    if "-h" in arguments or "--help" in arguments:
        _print_help(kind, call, arguments)
    try:
        path, settings = _split(kind, call, arguments)
        resolved = resolve_config(kind, path, settings)
    except ConfigError as error:
        stop(str(error), BAD_CALL)
    if getattr(resolved.config, "print_config", False):
        print_out(resolved.as_yaml())
        raise SystemExit(0)
    return resolved.config


def print_out(text: str) -> None:
    """Print what may be long: a reader that has enough, as in `| head`, ends this command as it ends any other."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL) or signal.SIG_IGN  # what Python sets, where none is known
    try:
        print(text, flush=True)
    finally:  # in a process that goes on, a socket that is closed must not end it
        signal.signal(signal.SIGPIPE, before)


def _print_help(kind: type, call: Call, arguments: list[str]) -> NoReturn:
    """Print what the command takes, with the defaults that its recipe gives."""
    from vlv.settings import ConfigError, describe
    from vlv.settings.paths import short

    try:
        path, _ = _split(kind, call, [item for item in arguments if item not in ("-h", "--help")])
        settings = describe(kind, path)
    except ConfigError as error:
        stop(str(error), BAD_CALL)
    places = "".join(f" [{name.upper()}]" for name in call.positional)
    defaults = f" (defaults of {short(path)})" if path is not None else ""
    usage = f"usage: {call.program}{places} [--config FILE] [key=value ...]\n\n{call.doc.strip()}"
    print_out(f"{usage}\n\nsettings{defaults}:\n{settings}")
    raise SystemExit(0)


def _split(kind: type, call: Call, arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The config file of a call, and its settings as `key=value`, those given by place first."""
    from vlv.settings import ConfigError

    path, places, settings, rest = call.recipe, [], [], list(arguments)
    while rest:
        item = rest.pop(0)
        if item == "--config":
            if not rest:
                raise ConfigError("--config needs a file: give --config FILE")
            path = find_recipe(rest.pop(0))
        elif item.startswith("--config="):
            path = find_recipe(item.removeprefix("--config="))
        elif item.startswith("-"):
            raise ConfigError(f"{item} is not an option: settings are key=value, {call.program} --help lists them")
        elif re.match(r"\w+=", item):  # a path with = in it has a slash or a dot before, or is given as key=value
            settings.append(item)
        else:
            places.append(item)
    return path, [*_by_place(kind, call, places), *settings]


def _by_place(kind: type, call: Call, places: list[str]) -> list[str]:
    from vlv.settings import ConfigError

    # Types as they are written: with `from __future__ import annotations` a field holds the text.
    types = {item.name: str(item.type) for item in dataclasses.fields(kind)}
    names = list(call.positional)
    if names and types.get(names[-1], "").startswith("list") and len(places) >= len(names):
        *single, many = names
        listed = ",".join(places[len(single) :])
        return [*(f"{name}={value}" for name, value in zip(single, places, strict=False)), f"{many}=[{listed}]"]
    if len(places) > len(names):
        takes = f"it takes {' '.join(name.upper() for name in names)}" if names else "settings are key=value"
        raise ConfigError(f"{places[len(names)]!r} has no meaning for {call.program}: {takes}")
    return [f"{name}={value}" for name, value in zip(names, places, strict=False)]


def stop(message: str, code: int) -> NoReturn:
    """Print one line and exit."""
    print(f"error: {printable(redact(' '.join(message.split())))}", file=sys.stderr)
    raise SystemExit(code)


def explain_missing_package(error: ModuleNotFoundError) -> str | None:
    """The fix for a package that the environment lacks; None where the module is one of this project's."""
    name = (error.name or "").partition(".")[0]
    if not name or name == "vlv":
        return None
    return (
        f"the Python package {name} is not installed in {sys.executable}: pip install -r requirements.txt in the "
        "project's folder brings all that is needed"
    )


def error_line(error: BaseException) -> str:
    """The message of an error that is meant for the user; the type too where it is not."""
    # The trainer's error by its name: its module would load torch.
    meant = isinstance(error, (ValueError, OSError)) or type(error).__name__ == "TrainingError"
    text = str(error).strip()
    if is_out_of_memory(error):  # while loading; where a batch is at hand, the trainer has explained it already
        return (
            f"out of memory before the first batch ({text.partition('. ')[0].strip() or type(error).__name__}): set "
            "precision=bf16 or param_dtype=bf16, or take fewer num_workers"
        )
    if (reason := _broken_torchvision(error)) is not None:
        return (
            f"torchvision is installed but does not work here ({reason}): install the one that fits torch, or "
            "pip uninstall torchvision"
        )
    if isinstance(error, ModuleNotFoundError) and (explanation := explain_missing_package(error)) is not None:
        return explanation
    if _LOST_PEER.search(text):
        return (
            "the connection to another process of the run broke: it was killed, or its machine is lost, and its own "
            "output says more; resume=latest continues from the last checkpoint"
        )
    if text.startswith("Caught ") and " in DataLoader worker " in text.partition("\n")[0]:
        # torch puts the worker's trace first, which ends with the type, and its module where that is not Python's own.
        text = re.sub(rf"^([\w.]+\.)?{type(error).__name__}: ", "", text.splitlines()[-1])
    text = " ".join(text.split()) or "no message"
    return text if meant else f"{type(error).__name__}: {text}"


def _broken_torchvision(error: BaseException | None) -> str | None:
    """What a torchvision of another torch says of itself, behind the errors of whatever imported it."""
    while error is not None:
        if isinstance(error, RuntimeError) and "torchvision::" in str(error):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def require_packages(command: str, extra: str, *names: str) -> None:
    """Stop with one line where packages of an optional extra are missing."""
    if problem := missing_packages(command, extra, *names):
        stop(problem, BAD_CALL)


def load_libraries() -> None:
    """Import the models and their libraries, whose progress bars of loading and saving are off: a run has its own.

    The collector rests meanwhile: it would look again and again at a million objects that live as long as the process,
    a fifth of the start's time. Frozen, they cost nothing later either, nor at the interpreter's end.
    """
    gc.disable()
    for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao", "bitsandbytes.backends.cpu.ops"):
        # Where torchao and bitsandbytes are installed they are imported, and warn of each kernel that is not here.
        logging.getLogger(name).setLevel(logging.ERROR)
    from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
    from huggingface_hub.utils import disable_progress_bars as quiet_hub
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    import vlv.models  # noqa: F401 - registers the classes with transformers

    quiet_diffusers()
    quiet_transformers()
    quiet_hub()
    gc.freeze()
    gc.enable()
