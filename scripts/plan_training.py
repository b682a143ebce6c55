"""How long stage 1 takes on which card, for each decoder: derived from the plan, as a Markdown table.

python -m scripts.plan_training
python -m scripts.plan_training decoder=stable-diffusion-2-1-base images=3e6 cards=1 utilisation=0.3
"""

from __future__ import annotations

import sys

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.planning.cards import HEAD, TrainingPlanConfig, rows
from vlv.planning.decoders import cost, variants


def main(arguments: list[str] | None = None) -> None:
    """Read the call and print the table."""
    call = Call("python -m scripts.plan_training", __doc__ or "", ("decoder",))
    config = parse(TrainingPlanConfig, call, sys.argv[1:] if arguments is None else arguments)
    try:
        wanted = list(variants(config))
    except ValueError as error:
        stop(str(error), BAD_CALL)
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for folder, conditioning in wanted:
        for row in rows(f"{folder.name}, {conditioning}", cost(folder, conditioning, config), config):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
