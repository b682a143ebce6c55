"""Seconds that the small world's stage 1 trains until its reconstructions are right, by two recipes in turn.

Trains by `configs/stage1_shapes.yaml` with each arm's steps, batch and pictures, once for each seed, and measures
reconstruction F1 on 300 test scenes. A training counts from the start of its process to its end; generating the
reconstructions does not. What is there already is not done again. The machine must be idle otherwise.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlv.cli.entry import Call, load_libraries, parse
from vlv.settings import option
from vlv.shapes.quickstart import HELD_OUT, PICTURES, SAMPLING
from vlv.shapes.runs import Settings, make_data, reconstruct, seconds_of, train_stage1


@dataclass(frozen=True)
class Arm:
    """One recipe: optimizer steps, pictures of a step, and different pictures in all."""

    steps: int
    batch: int
    pictures: int


ARMS = (Arm(800, 64, PICTURES), Arm(600, 32, 4_000))


@dataclass(frozen=True)
class F1TimeConfig:
    """How often each arm is trained, and where that is kept."""

    seeds: list[int] = option([42, 43], "a training of each arm for each of them")
    out: str = option("./outputs/f1_time", "folder of the data and the runs", path="local")
    json: str | None = option(None, "file for every measurement", path="local")


def main(arguments: list[str] | None = None) -> None:
    """Train every arm with every seed and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(F1TimeConfig, Call("python -m scripts.measure_f1_time", __doc__ or ""), given)
    load_libraries()
    from vlv.benchmarks.machine import describe_machine

    out = Path(config.out).resolve()
    rows = [_measured(out, arm, seed) for seed in config.seeds for arm in ARMS]
    machine = describe_machine(["bf16"])
    print(f"{machine.title}\n\n{table(rows)}")
    if config.json is not None:
        content = {"machine": asdict(machine), "scenes": HELD_OUT, "rows": rows}
        Path(config.json).write_text(json.dumps(content, indent=2) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """What was measured, as Markdown; a training that an earlier call broke off has no time."""
    lines = [
        "| steps | batch | pictures | seed | seconds | reconstruction F1 | 95 % interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["pictures"], row["seed"])):
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        cells = [row["steps"], row["batch"], f"{row['pictures']:,}", row["seed"], seconds, f"{row['f1']:.3f}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['interval'][0]:.3f} to {row['interval'][1]:.3f} |")
    return "\n".join(lines)


def _measured(out: Path, arm: Arm, seed: int) -> dict[str, Any]:
    from vlv.shapes import measure_files
    from vlv.shapes.measures import confidence_intervals, summarise

    data = make_data(out / f"data_{arm.pictures}", pictures=arm.pictures, pairs=0, test=HELD_OUT)
    name = f"{arm.steps}x{arm.batch}_of_{arm.pictures}_seed{seed}"
    settings: Settings = {
        "num_steps": arm.steps,
        "save_step": arm.steps,
        "global_batch_size": arm.batch,
        "precision": "bf16",
        "seed": seed,
    }
    model = train_stage1(out / name, data, settings)
    pictures = reconstruct(model, data.test, out / f"{name}_pictures", SAMPLING) / "reconstructions"
    scored = measure_files.score(measure_files.read(pictures))
    measured = {"f1": summarise(scored).f1, "interval": confidence_intervals(scored)["f1"]}
    return {**asdict(arm), "seed": seed, "seconds": seconds_of(out / name), **measured}


if __name__ == "__main__":
    main()
