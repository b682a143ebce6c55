"""Try everything on the small world: train, caption and reconstruct on tiny components, in minutes on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlv.cli.entry import FAILED_RUN, Call, parse, stop
from vlv.settings import option


@dataclass(frozen=True)
class QuickstartConfig:
    """Where the quickstart writes."""

    out: str = option("./outputs/quickstart", "folder of data, runs and report.html; what is there is reused")
    clean: bool = option(False, "remove what an earlier call made, and start afresh")


def main(arguments: list[str]) -> None:
    """Read the call and run."""
    config = parse(QuickstartConfig, Call("vlv quickstart", __doc__ or ""), arguments)
    import shutil

    from vlv.shapes.quickstart import run
    from vlv.shapes.runs import RunError

    out = Path(config.out).resolve()
    if config.clean:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    try:
        run(out)
    except RunError as error:
        stop(str(error), FAILED_RUN)
