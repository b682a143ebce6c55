"""`vlv data TOOL ...`: tools for datasets, each of which is loaded when it is called."""

from __future__ import annotations

import difflib
import signal
from importlib import import_module

from vlv.cli.entry import BAD_CALL, stop

# name -> (module whose `main(arguments)` does the work, one line for `vlv data --help`)
TOOLS = {
    "inspect": ("vlv.cli.data_inspect", "describe a dataset: sizes, kinds, captions, bad samples, speed"),
    "latents": ("vlv.cli.launch", "VAE moments of a dataset in advance, so that stage 1 needs no VAE; resumes"),
    "shards": ("vlv.cli.data_shards", "pack any dataset into .tar or parquet shards; resumes, filters, verifies"),
}


def main(arguments: list[str]) -> None:
    """Find the tool and run it; `--help` is answered here."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print(usage())
        raise SystemExit(0 if arguments else BAD_CALL)
    if name not in TOOLS:
        near = difflib.get_close_matches(name, TOOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(TOOLS)}"
        stop(f"vlv data has no tool {name!r}: {hint}", BAD_CALL)
    module = TOOLS[name][0]
    # The launcher's commands share a module, and are told apart by their names.
    launched = [f"data {name}"] if module == "vlv.cli.launch" else []
    import_module(module).main([*launched, *arguments[1:]])


def usage() -> str:
    """What `vlv data --help` prints."""
    width = max(map(len, TOOLS))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in TOOLS.items())
    return (
        f"usage: vlv data TOOL [PATH ...] [key=value ...]\n\nTools for datasets.\n\n{lines}\n\n"
        "vlv data TOOL --help lists a tool's settings."
    )
