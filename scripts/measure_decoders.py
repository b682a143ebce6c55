"""Train decoders at full size for a few steps on this machine's GPU, with random weights: real memory and speed.

python -m scripts.measure_decoders decoder=stable-diffusion-2-1-base micro_batch=8 checkpointing=true
"""

from __future__ import annotations

import sys

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.planning.decoders import variants
from vlv.planning.measure import HEAD, MeasureConfig, row


def main(arguments: list[str]) -> None:
    """Read the call and print the table."""
    config = parse(MeasureConfig, Call("python -m scripts.measure_decoders", __doc__ or "", ("decoder",)), arguments)
    import torch

    if config.device.startswith("cuda") and not torch.cuda.is_available():
        stop("no GPU is here: python -m scripts.plan_decoders plans without one", BAD_CALL)
    try:
        wanted = list(variants(config))
    except ValueError as error:
        stop(str(error), BAD_CALL)
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for folder, conditioning in wanted:
        try:
            print("| " + " | ".join(row(folder, conditioning, config)) + " |", flush=True)
        except (ValueError, torch.OutOfMemoryError) as error:  # the next one may fit
            print(f"{folder.name}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
