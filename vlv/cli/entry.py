"""What every Python entry point does around its own work: `--help`, the config, and failure in one line."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vlv.config import ConfigError, describe, load_config
from vlv.memory import is_out_of_memory

Config = TypeVar("Config")

BAD_CALL, FAILED_RUN, INTERRUPTED = 2, 1, 130
ERROR_FILE_VARIABLE = "VLV_ERROR_FILE"  # set by the launcher, which then prints the one line itself


def parse(kind: type[Config], program: str, doc: str, arguments: list[str]) -> Config:
    """Read `--config FILE key=value ...`; prints the help, or one line, and exits where that is all.

    Args:
        kind: the config dataclass.
        program: how the command is called, for the help.
        doc: what it does.
    """
    if "-h" in arguments or "--help" in arguments:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it as it ends any other command
        print(f"usage: {program} [--config FILE] [key=value ...]\n\n{doc.strip()}\n\nsettings:\n{describe(kind)}")
        raise SystemExit(0)
    path, overrides, rest = None, [], list(arguments)
    while rest:
        item = rest.pop(0)
        if item == "--config" and rest:
            path = rest.pop(0)
        elif item.startswith("--config="):
            path = item.removeprefix("--config=")
        elif item.startswith("-"):
            stop(f"{item} is not an option: give --config FILE and key=value settings", BAD_CALL)
        else:
            overrides.append(item)
    try:
        return load_config(kind, path, overrides)
    except ConfigError as error:
        stop(str(error), BAD_CALL)
        raise  # not reached: stop exits


def stop(message: str, code: int) -> None:
    """Print one line and exit."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def run_process(run: Callable[[Config], None], config: Config) -> None:
    """Do the work of one process; a failure leaves its trace in a file and one line on the terminal."""
    _end_with_parent()
    quiet_libraries()
    try:
        run(config)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001 - the last line of defence: any failure becomes one line and a file
        _report(error)
        sys.stdout.flush()
        os._exit(FAILED_RUN)  # other threads and process groups may be stuck in a collective


def error_line(error: BaseException) -> str:
    """The message of an error that is meant for the user; the type too where it is not."""
    meant = isinstance(error, (ValueError, OSError)) or type(error).__name__ == "TrainingError"
    text = str(error).strip()
    if is_out_of_memory(error):  # while loading, say: where a batch is at hand, it was explained already
        return (
            f"out of memory before the first batch ({text.partition('. ')[0].strip() or type(error).__name__}): set "
            "precision=bf16 or param_dtype=bf16, or take fewer num_workers"
        )
    if text.startswith("Caught ") and " in DataLoader worker " in text.partition("\n")[0]:
        text = text.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")  # torch puts the worker's trace first
    text = " ".join(text.split()) or "no message"
    return text if meant else f"{type(error).__name__}: {text}"


def _report(error: Exception) -> None:
    line, trace = error_line(error), traceback.format_exc()
    path = os.environ.get(ERROR_FILE_VARIABLE)
    if path is None:
        print(f"error: {line}", file=sys.stderr)
        return
    try:
        with Path(path).open("x") as handle:  # the first process to fail tells why
            handle.write(f"{line}\n\n{trace}")
    except FileExistsError:
        return


def quiet_libraries() -> None:
    """Switch off the libraries' progress bars of loading and saving: a run has one bar, its own."""
    from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
    from huggingface_hub.utils import disable_progress_bars as quiet_hub
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    quiet_diffusers()
    quiet_transformers()
    quiet_hub()


def _end_with_parent() -> None:
    """Let the kernel end this process when its launcher is killed, so that nothing runs on unseen."""
    if ERROR_FILE_VARIABLE in os.environ and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
