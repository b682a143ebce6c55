"""LoRA and QLoRA beside full fine-tuning in stage 2, on the small world: one stage 1, the same pairs, steps and seed.

All have the same three peak rates of the language model: the recipe's, a third and three times of it; the MLP's stays.
What an interrupted call left is gone on with; OUT/lora.json has every arm that is done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlv.cli.entry import FAILED_RUN, Call, parse, stop
from vlv.settings import option, require
from vlv.shapes.quickstart import HELD_OUT, PAIRS
from vlv.shapes.runs import TRAINED, RunError, Value, caption, make_data, seconds_of, train_stage2

RATES = {"third": 2.7e-3, "x1": 8e-3, "x3": 2.4e-2}
KINDS: Mapping[str, Mapping[str, Value]] = {
    "full": {},
    "lora_16": {"lora_rank": 16},
    "qlora_16": {"lora_rank": 16, "quantize": "int4"},
}
ARMS: Mapping[str, Mapping[str, Value]] = {
    f"{name}_{times}": {**settings, "lr": rate} for name, settings in KINDS.items() for times, rate in RATES.items()
}


@dataclass(frozen=True)
class LoraConfig:
    """Which arms run, for how long, and where everything goes."""

    out: str = option("./outputs/small_world_lora", "folder of data, runs and lora.json", path="local")
    only: list[str] = option([], "arms to run; none given: all")
    steps: int = option(400, "optimizer steps of each")

    def __post_init__(self) -> None:
        for name in self.only:
            require(name in ARMS, "only", name, f"the arms are {', '.join(ARMS)}")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call, train, caption and measure."""
    call = Call("python -m scripts.small_world.lora", __doc__ or "")
    config = parse(LoraConfig, call, sys.argv[1:] if arguments is None else arguments)
    out = Path(config.out).resolve()
    data = make_data(out / "data", pairs=PAIRS, test=HELD_OUT)
    try:
        for name in config.only or ARMS:
            run = out / name
            settings: dict[str, Value] = {"total_steps": config.steps, "save_step": config.steps, **ARMS[name]}
            captioner = train_stage2(run, data, TRAINED / "stage1", {**settings, "val_pictures": 0})
            captions = caption(captioner, data.test, out / f"{name}.captions.json")
            _keep(out / "lora.json", name, _measured(run, captioner, captions) | settings)
    except RunError as error:
        stop(str(error), FAILED_RUN)


def _measured(run: Path, captioner: Path, captions: Path) -> dict[str, Value | None]:
    """Caption measures, trained parameters, and the size of the finished captioner in bytes."""
    from vlv.checkpoints.inspection import describe_checkpoint
    from vlv.shapes.measure_files import measure

    values = measure(captions)
    (checkpoint,) = (run / "checkpoints").glob("step_*")
    return {
        "caption_f1": values["f1"],
        "caption_exact": values["exact"],
        "trained_parameters": int(str(describe_checkpoint(checkpoint)["parameters"]).replace(",", "")),
        "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors")),
        "final_bytes": sum(path.stat().st_size for path in captioner.rglob("*.safetensors")),
        "validation_loss": json.loads((checkpoint / "validation.json").read_text())["val/loss"],
        "seconds": seconds_of(run),
    }


def _keep(path: Path, name: str, result: Mapping[str, Value | None]) -> None:
    """Add a result to the file."""
    kept = json.loads(path.read_text()) if path.exists() else {"held_out_pictures": HELD_OUT, "arms": {}}
    kept["arms"][name] = result
    path.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
