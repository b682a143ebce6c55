"""What a decoder costs at full size, counted without weights on the meta device, as a Markdown table.

python -m scripts.plan_decoders decoder=stable-diffusion-xl-base-1.0 resolution=512 memory=48
python -m scripts.plan_decoders decoder=FOLDER queries=77 conditioning=direct
"""

from __future__ import annotations

import sys

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.planning.decoders import HEAD, PlanConfig, plan, variants


def main(arguments: list[str]) -> None:
    """Read the call and print the table."""
    config = parse(PlanConfig, Call("python -m scripts.plan_decoders", __doc__ or "", ("decoder",)), arguments)
    try:
        wanted = list(variants(config))
    except ValueError as error:
        stop(str(error), BAD_CALL)
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for folder, conditioning in wanted:
        print("| " + " | ".join(plan(folder, conditioning, config)) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
