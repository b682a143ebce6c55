"""Say what a checkpoint is: stage, step, bases, parameters, dtype, recipe, metrics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlv.cli.entry import BAD_CALL, stop


def main(arguments: list[str] | None = None) -> None:
    """Read the call and print a line for each fact."""
    parser = argparse.ArgumentParser(prog="python -m vlv.cli.inspect_checkpoint", description=__doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of a checkpoint, or a published file")
    path = parser.parse_args(arguments).path
    from vlv.checkpoints.inspection import describe_checkpoint, is_ours

    try:
        if is_ours(path):
            facts = describe_checkpoint(path)
        else:
            from vlv.published.plan import describe_published  # reads pickles too, so it needs torch

            facts = describe_published(path)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
        return
    width = max(map(len, facts))
    print(path)
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
