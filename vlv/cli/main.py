"""The command `vlv`: a table of sub-commands, each of which is loaded when it is called."""

from __future__ import annotations

import sys

from vlv import __version__
from vlv.cli.commands import Command, call_command, launched, summaries
from vlv.cli.entry import BAD_CALL, INTERRUPTED, explain_missing_package, stop

USAGE = """\
usage: vlv COMMAND [PATH ...] [--config FILE] [key=value ...]

Trains and runs VLV, an image captioner that learns from a frozen text-to-image model (arXiv 2507.07104).

{commands}

vlv COMMAND --help lists a command's settings. --config reads settings from a YAML file, or from a shipped recipe by
name (--config stage1_sdxl); what is given as key=value wins over it. --version prints the version.
Exit codes: 0 done, 1 a failed run, 2 a call that cannot work, 75 a training that a signal stopped and that has saved,
130 interrupted at once."""


COMMANDS = {
    "stage1": launched("train caption embeddings from images, with a frozen text-to-image model"),
    "stage2": launched("train a language model to read the embeddings as captions"),
    "caption": launched("caption images of any source into JSON, texts beside them, tables or shards"),
    "reconstruct": launched("generate images from their embeddings, compare and measure"),
    "serve": Command("vlv.cli.serve", "serve captions over HTTP, by OpenAI's API"),
    "demo": Command("vlv.cli.demo", "show captions, and what the decoder draws from them, on a web page"),
    "import": Command("vlv.cli.import_checkpoint", "convert a published checkpoint to this project's format"),
    "export": Command("vlv.cli.export_checkpoint", "write a checkpoint in the published layout, or as GGUF"),
    "inspect": Command("vlv.cli.inspect_checkpoint", "describe a checkpoint from its headers and configs"),
    "data": Command("vlv.cli.data", "look at a dataset, or pack it into shards"),
    "benchmark": Command("vlv.cli.benchmark", "measure this machine beside plain code"),
    "chaos": Command("vlv.cli.chaos", "kill runs of the small world again and again, and compare what they come to"),
    "doctor": Command("vlv.cli.doctor", "look at versions, devices, disk, hub and checkpoints, and say what is next"),
    "download": Command("vlv.cli.download", "fetch the pretrained components and check what arrived"),
    "quickstart": Command("vlv.cli.quickstart", "try everything on the small world, in minutes on a CPU"),
}


def main(arguments: list[str] | None = None) -> None:
    """Find the sub-command and run it; `--help` and `--version` are answered here."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--version"]:
        print(f"vlv {__version__}")
        raise SystemExit(0)
    try:
        call_command(arguments, COMMANDS, usage, "unknown command")
    except ModuleNotFoundError as error:
        if (explanation := explain_missing_package(error)) is None:
            raise  # a module of our own: a defect, whose trace is wanted
        stop(explanation, BAD_CALL)
    except KeyboardInterrupt:
        stop("interrupted", INTERRUPTED)


def usage() -> str:
    """What `vlv --help` prints."""
    return USAGE.format(commands=summaries(COMMANDS))
