"""The embedded world's runs, as its scripts start them: the four launchers, each skipped where its result is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
FAMILY = ROOT / "assets" / "tiny"
# Stage 1 of the full recipe: steps and peak rate of each run; each goes on from the last one's end.
LEGS = (
    (1_500, 5e-4), (3_000, 5e-4), (2_000, 5e-4), (1_800, 5e-4), (3_000, 2e-4), (3_000, 5e-4), (4_000, 3e-4),
)  # fmt: skip
SHORT_LEGS = 5  # of them make the stage 1 of most rows of the table, and the kept early one
TRAINED = FAMILY / "trained"
KEPT_LEGS = {SHORT_LEGS: TRAINED / "early", len(LEGS): TRAINED / "stage1"}  # stage 1 after so many runs
SHORT_STAGE2 = (1_100, 150)  # steps of both runs, in the quickstart and in most rows of the table
SHORT_READING_LR = 1.5e-3  # of the language model in the first: fewer steps want a higher rate
ENCODER_LR = 6e-4  # of stage2_shapes.yaml
GUIDANCE = 1.5  # at which the tiny Stable Diffusion draws best from true sentences
Settings = Mapping[str, Any]


class RunError(RuntimeError):
    """A launcher that failed; its own message is above."""


@dataclass(frozen=True)
class Data:
    """Folders of the embedded world's data.

    pictures: training pictures without any text. pairs: pictures with descriptions, for stage 2.
    val, test: folders of pictures with captions.json; unseen: of held-out pairs of colour and shape. drawn: the first
    of the test pictures, which most rows of the table draw.
    """

    pictures: Path
    pairs: Path
    val: Path
    test: Path
    unseen: Path
    drawn: Path


def make_data(folder: Path, pictures: int, pairs: int, test: int, drawn: int = 0) -> Data:
    """Write the data, whatever of it is not there; what an interrupted call left half written is written anew."""
    from vlv.shapes.scene import Split
    from vlv.shapes.writing import DataFormat, write_scenes

    data = Data(*(folder / name for name in ("pictures", "pairs", "val", "test", "unseen", "drawn")))
    wanted: list[tuple[Path, Split, range, DataFormat, bool]] = [
        (data.pictures, "train", range(pictures), "parquet", False),
        # Numbers go on after stage 1's pictures. A small world repeats itself: some of the scenes are among those.
        (data.pairs, "train", range(pictures, pictures + pairs), "parquet", True),
        (data.val, "val", range(64), "folder", True),
        (data.test, "test", range(test), "folder", True),
        (data.unseen, "unseen", range(test), "folder", True),
    ]
    if drawn:
        wanted.append((data.drawn, "test", range(drawn), "folder", True))
    for path, split, numbers, form, captions in wanted:
        marker = path.with_name(f".{path.name}.written")
        if not marker.exists():
            shutil.rmtree(path, ignore_errors=True)
            say(f"{path}: {len(numbers):,} scenes of {split}")
            write_scenes(path, split, numbers, form, captions)
            marker.touch()
    return data


def train_stage1(output_dir: Path, config: str, data: Data, **settings: Any) -> Path:
    """Run `train_stage1.sh` on the pictures; returns the finished model's folder."""
    paths = {
        "train_dataset_path": data.pictures,
        "val_dataset_path": data.val,
        "stable_diffusion_model_path": FAMILY / "stable-diffusion",
        "florence2_model_path": FAMILY / "florence2",
    }
    return _train("train_stage1.sh", output_dir, config, {**paths, **settings})


def train_stage2(
    output_dir: Path,
    data: Data,
    stage1: Path,
    steps: tuple[int, int] | None = None,
    *,
    train: Sequence[str] = ("mlp", "llm", "encoder"),
    encoder_waits: bool = True,
    diffusion_weight: float = 0.0,
    reading_lr: float | None = None,
    reading_of: Path | None = None,
    **settings: Any,
) -> Path:
    """Run `train_stage2.sh` on the pairs, twice; returns the finished captioner's folder.

    MLP and language model first learn to read what stage 1 tells; then the encoder trains too. It would move away from
    what stage 1 taught it while nothing reads it yet.

    Args:
        steps: of the two runs; None is as their configs say.
        train: what trains in the second, and without the encoder in the first.
        encoder_waits: False trains the encoder in the first run too, at the second's rate.
        diffusion_weight: of the second run's denoising loss.
        reading_lr: peak learning rate of the first run's language model; None is its config's.
        reading_of: another stage 2, whose first run is the same and serves both.
    """
    reading: dict[str, Any] = {**settings, "train": [part for part in train if part != "encoder"]}
    then: dict[str, Any] = {**settings, "train": train}
    if not encoder_waits:
        reading |= {"train": train, "encoder_lr": ENCODER_LR}
    if steps is not None:
        reading["total_steps"], then["total_steps"] = steps
    if reading_lr is not None:
        reading["lr"] = reading_lr
    if diffusion_weight:
        then["diffusion_weight"] = diffusion_weight
    if "encoder" not in train:
        then["encoder_lr"] = "null"  # the config's is of an encoder that trains
    read = train_captioner(reading_run(reading_of or output_dir), data, stage1, "stage2_shapes_reading.yaml", **reading)
    return train_captioner(output_dir, data, stage1, "stage2_shapes.yaml", initial_checkpoint=read, **then)


def train_captioner(
    output_dir: Path, data: Data, stage1: Path, config: str, *, train: Sequence[str], **settings: Any
) -> Path:
    """Run `train_stage2.sh` on the pairs, once."""
    paths = {
        "dataset_path": data.pairs,
        "val_dataset_path": data.val,
        "qwen_model": FAMILY / "qwen",
        "diffusion_model_path": stage1,
    }
    return _train("train_stage2.sh", output_dir, config, {**paths, "train": f"[{','.join(train)}]", **settings})


def reading_run(output_dir: Path) -> Path:
    """The first of the two runs of stage 2 that end in `output_dir`."""
    return output_dir.with_name(f"{output_dir.name}_reading")


def _train(launcher: str, output_dir: Path, config: str, settings: Settings) -> Path:
    final = output_dir / "final"
    with one_at_a_time(output_dir):
        if final.is_dir():
            say(f"{final} is there")
            return final
        from vlv.training.processes import fastest_precision

        started = time.monotonic()
        resumed = (output_dir / "checkpoints").is_dir()
        # An overriding setting may also be one that the launcher names: those go on the command line too, which wins.
        values = {
            "output_dir": output_dir,
            "run_name": output_dir.name,
            "resume": "latest",
            "precision": fastest_precision(),
            **settings,
        }
        launch(launcher, {"CONFIG": ROOT / "configs" / config}, values)
        seconds = time.monotonic() - started
        (output_dir / "seconds.json").write_text(json.dumps({"seconds": seconds, "resumed": resumed}) + "\n")
    return final


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Rows that share a result may run side by side: one makes it, the others wait and then find it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        yield


def caption(captioner: Path, images: Path, output: Path, **settings: Any) -> Path:
    """Run `Caption_inference.sh`; returns the caption file."""
    if not output.exists():
        config = ROOT / "configs" / "caption_shapes.yaml"
        environment = {"CONFIG": config, "IMAGE_PATH": images, "CKPT_DIR": captioner, "OUTPUT_DIR": output}
        launch("Caption_inference.sh", environment, settings)
    return output


def reconstruct(stage1: Path, images: Path, output: Path, guidance: float = GUIDANCE, **settings: Any) -> Path:
    """Run `Image_inference.sh`; returns the folder with `reconstructions/` and metrics.json."""
    environment = {
        "CONFIG": ROOT / "configs" / "reconstruct_shapes.yaml",
        "IMAGE_PATH": images,
        "CKPT_DIR": stage1,
        "OUTPUT_DIR": output,
        "GUIDANCE_SCALE": guidance,
    }
    with one_at_a_time(output):
        if not (output / "metrics.json").exists():
            launch("Image_inference.sh", environment, settings)
    return output


def launch(launcher: str, environment: Settings, settings: Settings) -> None:
    """Run a launcher with its output shown.

    Raises:
        RunError: it failed.
    """
    command = ["bash", str(ROOT / launcher), *(f"{name}={value}" for name, value in settings.items())]
    values = {**os.environ, "PYTHON": sys.executable, **{name: str(value) for name, value in environment.items()}}
    say(" ".join([*(f"{name}={relative(value)}" for name, value in environment.items()), "bash", launcher,
                  *(f"{name}={relative(value)}" for name, value in settings.items())]))  # fmt: skip
    code = subprocess.run(command, env=values, check=False).returncode
    if code:
        raise RunError(f"{launcher} ended with exit code {code}; run the same command again to go on where it stopped")


def pictures_seen(legs: int) -> int:
    """Pictures that stage 1 has seen after some of the full recipe's runs."""
    return 64 * sum(steps for steps, _ in LEGS[:legs])  # batch_size of stage1_shapes.yaml


def relative(value: Any) -> str:
    """A path as it is written from the project's folder."""
    path = Path(str(value))
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else str(value)


def duration(seconds: float) -> str:
    """Seconds as people write them: 7 min 38 s."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"== {text}", file=sys.stderr, flush=True)


def seconds_of(*runs: Path) -> float | None:
    """Seconds that trainings took in all; None where one was interrupted, or is not there."""
    total = 0.0
    for run in runs:
        path = run / "seconds.json"
        kept = json.loads(path.read_text()) if path.exists() else {"resumed": True}
        if kept["resumed"]:
            return None
        total += kept["seconds"]
    return total
