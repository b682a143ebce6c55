"""Describe a checkpoint: stage, step, bases, parameters, dtype, recipe, metrics.

Reads headers and configs alone, no weights, except for verify=true.
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
    verify: bool = option(False, "compare every file of a checkpoint for resuming with the digest that was kept of it")

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("vlv inspect needs a checkpoint: vlv inspect PATH")


def main(arguments: list[str]) -> None:
    """Read the call and print a line for each fact."""
    config = parse(InspectConfig, Call("vlv inspect", __doc__ or "", ("path",)), arguments)
    path = Path(config.path)
    try:
        facts = (_verified(path) if config.verify else {}) | describe(path)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    width = max(map(len, facts))
    print(path)
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")


def _verified(path: Path) -> dict[str, str]:
    """How many files are as they were written.

    Raises:
        CheckpointError: the first that is not, or a checkpoint without digests.
    """
    from vlv.checkpoints.digests import count_verified, damage
    from vlv.checkpoints.identity import CheckpointError

    count = count_verified(path)
    if not count:
        raise CheckpointError(f"{path} keeps no digests: checkpoints/step_* do, of runs since they were introduced")
    if found := damage(path):
        raise CheckpointError(found)
    return {"verified": f"{count} files are as they were written"}


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
