"""Runs img2dataset in its own environment, for scripts/prepare_laion.sh; takes its settings as KEY=VALUE.

Its worker processes outlive a killed main process and would go on writing into shards that the next call begins anew.
They import this file too, as multiprocessing's spawn does, so that its first lines let the kernel end each of them with
its parent.
"""

import ctypes
import importlib
import json
import signal
import sys

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main(arguments: list[str]) -> None:
    """Pass every `key=value` on, the value as JSON where it is some."""
    settings = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    importlib.import_module("img2dataset").download(**settings)


if __name__ == "__main__":
    main(sys.argv[1:])
