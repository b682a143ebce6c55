"""Memory of a long training, step by step: stage 1 on the small world, and its chart (`pip install matplotlib`).

Samples the anonymous memory of the training process and of its loader worker, in MiB, as Linux counts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlv.atomic import whole_file
from vlv.benchmarks.memory import memory_mib
from vlv.cli.entry import Call, parse
from vlv.settings import option
from vlv.shapes.runs import FAMILY, Settings, make_data, vlv_call

_PICTURES = 4096


@dataclass(frozen=True)
class MemoryConfig:
    """How long the training is, and where the measurements go."""

    steps: int = option(20_000, "optimizer steps")
    out: str = option("./outputs/memory", "folder of the data and the run", path="local")
    to: str = option("./docs/reliability", "folder of memory.jsonl and memory.svg", path="local")
    every: float = option(5.0, "seconds between two samples")
    chart: bool = option(False, "draw the chart of a memory.jsonl that is there, and train nothing")


def main(arguments: list[str] | None = None) -> None:
    """Train, sample, and draw."""
    call = Call("python -m scripts.measure_memory", __doc__ or "")
    config = parse(MemoryConfig, call, sys.argv[1:] if arguments is None else arguments)
    table = Path(config.to).resolve() / "memory.jsonl"
    if not config.chart:
        records = list(_measure(config))
        with whole_file(table) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    _draw(table, table.with_suffix(".svg"))


def _measure(config: MemoryConfig) -> Iterator[dict[str, float]]:
    out = Path(config.out).resolve()
    Path(config.to).mkdir(parents=True, exist_ok=True)
    data = make_data(out / "data", pictures=_PICTURES, pairs=0)
    settings: Settings = {
        "train_dataset_path": data.pictures,
        "val_dataset_path": data.val,
        "florence2_model_path": FAMILY / "florence2",
        "stable_diffusion_model_path": FAMILY / "stable-diffusion",
        "output_dir": out / "run",
        "overwrite": "true",
        "num_steps": config.steps,
        "global_batch_size": 2,
        "save_step": 500,
        "log_every": 20,
        "keep_results": 0,
        "val_pictures": 2,
        "val_max_samples": 8,
        "val_inference_steps": 2,
        "precision": "fp32",
    }
    with (out / "log").open("wb") as log:
        run = psutil.Popen(vlv_call("stage1", "stage1_shapes", settings), stdout=log, stderr=subprocess.STDOUT)
        while run.poll() is None:
            time.sleep(config.every)
            if (record := _sample(run, out / "run" / "metrics.jsonl")) is not None:
                yield record
    if run.returncode:
        raise SystemExit(f"the training ended with exit code {run.returncode}: {out / 'log'}")


def _sample(run: psutil.Popen, metrics: Path) -> dict[str, float] | None:
    """Memory of the training process and of its loader workers, at the last logged step; None before the first."""
    try:
        kinds = [memory_mib(process.pid) for process in run.children(recursive=True)]
        lines = metrics.read_text().splitlines()
    except (OSError, psutil.Error):  # it starts, or has just ended
        return None
    if not lines or not kinds:
        return None
    # Anonymous memory alone, as mapped files are the system's to take back; pages that a fork shares count once.
    training, *loading = [kind["Pss_Anon"] for kind in kinds]
    return {"step": json.loads(lines[-1])["step"], "training_mib": training, "loading_mib": sum(loading)}


def _draw(table: Path, chart: Path) -> None:
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in table.read_text().splitlines()]
    steps = [record["step"] for record in records]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for key, label in (("training_mib", "training process"), ("loading_mib", "loader worker")):
        axes.plot(steps, [record[key] for record in records], label=label, linewidth=1.5)
    axes.set(xlabel="step", ylabel="anonymous memory, MiB", ylim=(0, None), xlim=(0, None))
    axes.grid(color="0.9")
    axes.legend(frameon=False)
    figure.savefig(chart, metadata={"Date": None})


if __name__ == "__main__":
    main()
