"""One process of a run: `python -m vlv.cli.worker COMMAND CONFIG_FILE`, as `vlv.cli.launch` starts it.

The call was parsed and checked by the launcher, which hands on the resolved settings as JSON: every key with its value,
so nothing is merged or checked against recipes a second time.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from vlv.cli.entry import FAILED_RUN, INTERRUPTED, error_line, load_libraries
from vlv.orphans import end_with_parent
from vlv.redaction import printable, redact
from vlv.training.stopping import STOPPED, TrainingStopped

ERROR_FILE_VARIABLE = "VLV_ERROR_FILE"  # set by the launcher, which then prints the one line itself
Config = TypeVar("Config")


def main(arguments: list[str] | None = None) -> None:
    """Read the settings and do one process's share of the work."""
    from vlv.cli.launch import LAUNCHED  # here: that module imports this one

    name, path = sys.argv[1:] if arguments is None else arguments
    if ERROR_FILE_VARIABLE in os.environ:  # a launcher started it
        end_with_parent()
    command = LAUNCHED[name]
    code = attempt(partial(command.run, read_resolved(command.kind, Path(path))))
    if code in (FAILED_RUN, STOPPED):
        _exit_at_once(code)
    raise SystemExit(code)


def write_resolved(config: object, path: Path) -> None:
    """Write every setting of a config dataclass, for `read_resolved`."""
    path.write_text(json.dumps(dataclasses.asdict(config)))  # type: ignore[call-overload]


def read_resolved(kind: type[Config], path: Path) -> Config:
    """The config that `write_resolved` wrote; equal to it, as JSON keeps every float."""
    return kind(**json.loads(path.read_text()))


def attempt(work: Callable[[], object]) -> int:
    """Do the work of one process; returns its exit code. A failure leaves its one line and its trace in a file."""
    logging.setLogRecordFactory(_redacted_record)  # a library may log the URL that it reads
    try:
        load_libraries()
        work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except TrainingStopped as stopped:
        _write_first(str(stopped), "")
        return STOPPED
    except Exception as error:  # noqa: BLE001 - the last line of defence: any failure becomes one line and a file
        _report(error)
        return FAILED_RUN
    return 0


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    record.msg, record.args = "\n".join(printable(line) for line in redact(record.getMessage()).split("\n")), ()
    return record


def _exit_at_once(code: int) -> NoReturn:
    """Exit without waiting: other threads and process groups may be stuck in a collective."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report(error: Exception) -> None:
    _write_first(redact(error_line(error)), redact(traceback.format_exc()))


def _write_first(line: str, trace: str) -> None:
    path = os.environ.get(ERROR_FILE_VARIABLE)
    if path is None:
        print(f"error: {line}", file=sys.stderr)
        return
    try:
        # "x": of several processes the first to fail knows the reason; the others fail because it is gone.
        with Path(path).open("x") as handle:
            handle.write(f"{line}\n\n{trace}")
    except FileExistsError:
        return


if __name__ == "__main__":
    main()
