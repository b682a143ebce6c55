"""`vlv data TOOL ...`: tools for datasets, each of which is loaded when it is called."""

from __future__ import annotations

from vlv.cli.commands import Command, call_command, launched, summaries

TOOLS = {
    "caption": Command("vlv.cli.data_caption", "captions of a dataset from an OpenAI-compatible endpoint; resumes"),
    "inspect": Command("vlv.cli.data_inspect", "describe a dataset: sizes, kinds, captions, bad samples, speed"),
    "latents": launched("VAE moments of a dataset in advance, so that stage 1 needs no VAE; resumes"),
    "shards": Command(
        "vlv.cli.data_shards", "pack any dataset into .tar or parquet shards; resumes, filters, verifies"
    ),
}


def main(arguments: list[str]) -> None:
    """Find the tool and run it; `--help` is answered here."""
    call_command(arguments, TOOLS, usage, "vlv data has no tool", prefix="data ")


def usage() -> str:
    """What `vlv data --help` prints."""
    return (
        f"usage: vlv data TOOL [PATH ...] [key=value ...]\n\nTools for datasets.\n\n{summaries(TOOLS)}\n\n"
        "vlv data TOOL --help lists a tool's settings."
    )
