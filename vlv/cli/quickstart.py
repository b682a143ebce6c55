"""Try VLV on the small world, in minutes on a CPU: train both stages from nothing, caption and reconstruct.

Shipped, and not trained here: the tiny Stable Diffusion, Florence-2 and Qwen2. Trained here: stage 1, on 12,000
pictures without any text, and stage 2, on 8,000 pictures with captions. Measured: captions and reconstructions of 300
held-out pictures before and after each stage, with 95 % confidence intervals.
"""

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
    # After the parse, so that `--help` loads none of it.
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
