"""Describe a checkpoint: stage, step, bases, parameters, dtype, recipe, metrics.

Reads headers and configs alone, no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import ConfigError, option


@dataclass(frozen=True)
class InspectConfig:
    """What is described."""

    path: str = option("", "folder of a checkpoint, or a published file")

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("vlv inspect needs a checkpoint: vlv inspect PATH")


def main(arguments: list[str]) -> None:
    """Read the call and print a line for each fact."""
    path = Path(parse(InspectConfig, Call("vlv inspect", __doc__ or "", ("path",)), arguments).path)
    try:
        facts = describe(path)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    width = max(map(len, facts))
    print(path)
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")


def describe(path: Path) -> dict[str, str]:
    """The facts of a checkpoint of this project or of a published one, by name.

    Raises:
        ValueError: it is neither.
        OSError: it cannot be read.
    """
    from vlv.checkpoints.inspection import describe_checkpoint, is_ours

    if is_ours(path):
        return describe_checkpoint(path)
    from vlv.published.import_plan import describe_published  # reads pickles too, so it needs torch

    return describe_published(path)
