"""The small world's trainings and inferences: each a process `python -m vlv ...`, skipped where its result is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vlv.resources import assets_folder, project_folder, recipes_folder

ROOT = project_folder()
FAMILY = assets_folder() / "tiny"
# Stage 1 of the full recipe: steps and peak rate of each phase; each continues from the last one's end.
PHASES = (
    (1_500, 5e-4), (3_000, 5e-4), (2_000, 5e-4), (1_800, 5e-4), (3_000, 2e-4), (3_000, 5e-4), (4_000, 3e-4),
)  # fmt: skip
SHORT_PHASES = 5  # of them make the stage 1 of most rows of the table, and of the quickstart
TRAINED = FAMILY / "trained"
KEPT_PHASES = {SHORT_PHASES: TRAINED / "early", len(PHASES): TRAINED / "stage1"}  # stage 1 after so many phases
FIRST_PAIR = 100_000  # number of stage 2's first scene: the ones before are stage 1's pictures
ENCODER_LR = 6e-4  # of stage2_shapes.yaml
GUIDANCE = 1.5  # at which the tiny Stable Diffusion generates best from true sentences
Value = str | int | float | Path
Settings = Mapping[str, Value]


class RunError(RuntimeError):
    """A training or inference that failed; its own message is above."""


@dataclass(frozen=True)
class Data:
    """Folders of the small world's data.

    pictures: training pictures without any text. pairs: pictures with descriptions, for stage 2.
    val, test: folders of pictures with captions.json; unseen: of held-out pairs of colour and shape. subset: the first
    of the test pictures, which are reconstructed where all would take too long.
    """

    pictures: Path
    pairs: Path
    val: Path
    test: Path
    unseen: Path
    subset: Path


@dataclass(frozen=True)
class Stage2:
    """How a stage 2 trains: a warm-up phase with the encoder frozen, then a second phase.

    steps: of the two phases; None is as in their recipes.
    train: what trains in the second phase, and without the encoder in the warm-up.
    encoder_waits: False trains the encoder in the warm-up too, at the second phase's rate.
    diffusion_weight: of the second phase's denoising loss.
    warmup_lr: peak learning rate of the warm-up's language model; None is its recipe's.
    warmup_of: folder of another stage 2, whose warm-up is the same and serves both.
    """

    steps: tuple[int, int] | None = None
    train: tuple[str, ...] = ("mlp", "llm", "encoder")
    encoder_waits: bool = True
    diffusion_weight: float = 0.0
    warmup_lr: float | None = None
    warmup_of: Path | None = None


# Of the quickstart and of most rows of the table. Fewer steps want a higher rate in the warm-up.
SHORT_STAGE2 = Stage2(steps=(1_100, 150), warmup_lr=1.5e-3)


def make_data(folder: Path, *, pairs: int, test: int, pictures: int = 0, unseen: int = 0, subset: int = 0) -> Data:
    """Write the data, whatever of it is not there; what an interrupted call left half written is written anew."""
    from vlv.shapes.scene import Split
    from vlv.shapes.writing import DataFormat, write_scenes

    data = Data(*(folder / name for name in ("pictures", "pairs", "val", "test", "unseen", "subset")))
    # A small world repeats itself: some of the pairs' scenes are among stage 1's pictures, with another jitter.
    wanted: list[tuple[Path, Split, range, DataFormat, bool]] = [
        (data.pictures, "train", range(pictures), "parquet", False),
        (data.pairs, "train", range(FIRST_PAIR, FIRST_PAIR + pairs), "parquet", True),
        (data.val, "val", range(64), "folder", True),
        (data.test, "test", range(test), "folder", True),
        (data.unseen, "unseen", range(unseen), "folder", True),
        (data.subset, "test", range(subset), "folder", True),
    ]
    for path, split, numbers, form, captions in wanted:
        marker = path.with_name(f".{path.name}.written")
        if numbers and not marker.exists():
            shutil.rmtree(path, ignore_errors=True)
            log(f"{relative(path)}: {len(numbers):,} scenes of {split}")
            write_scenes(path, split, numbers, form, captions)
            # Last: a folder without it was interrupted and is written anew.
            marker.touch()
    return data


def train_stage1(output_dir: Path, data: Data, settings: Settings) -> Path:
    """Train stage 1 on the pictures, once; returns the finished model's folder."""
    paths: Settings = {
        "train_dataset_path": data.pictures,
        "val_dataset_path": data.val,
        "stable_diffusion_model_path": FAMILY / "stable-diffusion",
        "florence2_model_path": FAMILY / "florence2",
    }
    return _train("stage1", "stage1_shapes", output_dir, {**paths, **settings})


def train_stage2(output_dir: Path, data: Data, stage1: Path, how: Stage2, settings: Settings | None = None) -> Path:
    """Train stage 2 on the pairs, warm-up and second phase; returns the finished captioner's folder.

    MLP and language model first learn to read the embeddings; then the encoder trains too.

    Args:
        settings: more of both phases.
    """
    without_encoder = tuple(part for part in how.train if part != "encoder")
    warmup, second = dict(settings or {}), dict(settings or {})
    if how.steps is not None:
        warmup["total_steps"], second["total_steps"] = how.steps
    if how.warmup_lr is not None:
        warmup["lr"] = how.warmup_lr
    if not how.encoder_waits:
        warmup["encoder_lr"] = ENCODER_LR
    if how.diffusion_weight:
        second["diffusion_weight"] = how.diffusion_weight
    if "encoder" not in how.train:
        second["encoder_lr"] = "null"  # the recipe's is of an encoder that trains
    trained = without_encoder if how.encoder_waits else how.train
    folder = warmup_folder(how.warmup_of or output_dir)
    begun = train_captioner(folder, data, stage1, "stage2_shapes_warmup", {**warmup, "train": _listed(trained)})
    second |= {"train": _listed(how.train), "initial_checkpoint": begun}
    return train_captioner(output_dir, data, stage1, "stage2_shapes", second)


def train_captioner(output_dir: Path, data: Data, stage1: Path, recipe: str, settings: Settings) -> Path:
    """Train one phase of stage 2 on the pairs, once; returns the finished captioner's folder."""
    paths: Settings = {
        "dataset_path": data.pairs,
        "val_dataset_path": data.val,
        "qwen_model": FAMILY / "qwen",
        "diffusion_model_path": stage1,
    }
    return _train("stage2", recipe, output_dir, {**paths, **settings})


def warmup_folder(output_dir: Path) -> Path:
    """Folder of the warm-up phase of the stage 2 that ends in `output_dir`."""
    return output_dir.with_name(f"{output_dir.name}_warmup")


def _listed(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"


def _train(command: str, recipe: str, output_dir: Path, settings: Settings) -> Path:
    from vlv.training.processes import fastest_precision

    final = output_dir / "final"
    values: Settings = {"output_dir": output_dir, "resume": "latest", "precision": fastest_precision(), **settings}
    with one_at_a_time(output_dir):
        if final.is_dir():
            log(f"{relative(final)} is there")
        else:
            with timed(output_dir):
                run_vlv(command, recipe, values)
    return final


def caption(captioner: Path, images: Path, output: Path) -> Path:
    """Caption images, once; returns the caption file."""
    if not output.exists():
        with timed(output):
            settings: Settings = {"image_path": images, "ckpt_dir": captioner, "output_path": output}
            run_vlv("caption", "caption_shapes", settings)
    return output


def reconstruct(stage1: Path, images: Path, output: Path, settings: Settings | None = None) -> Path:
    """Reconstruct images, once; returns the folder with `reconstructions/` and metrics.json."""
    values: Settings = {
        "image_path": images,
        "ckpt_dir": stage1,
        "output_dir": output,
        "guidance_scale": GUIDANCE,
        **(settings or {}),
    }
    with one_at_a_time(output):
        if not (output / "metrics.json").exists():
            with timed(output):
                run_vlv("reconstruct", "reconstruct_shapes", values)
    return output


def run_vlv(command: str, recipe: str, settings: Settings) -> None:
    """Run `vlv COMMAND` in a process of its own, its output shown.

    A process of its own, so that it works in a clone and from an installed wheel alike, and its memory is free again.

    Args:
        recipe: name of a shipped recipe.

    Raises:
        RunError: it failed.
    """
    config = recipes_folder() / f"{recipe}.yaml"
    shown = [f"{name}={relative(value)}" for name, value in settings.items()]
    log(" ".join(["vlv", command, "--config", relative(config), *shown]))
    given = [f"{name}={value}" for name, value in settings.items()]
    process = subprocess.run([sys.executable, "-m", "vlv", command, "--config", str(config), *given], check=False)
    if code := process.returncode:
        raise RunError(f"vlv {command} ended with exit code {code}; the same command resumes where it stopped")


@contextmanager
def one_at_a_time(result: Path) -> Iterator[None]:
    """Rows that share a result may run side by side: one makes it, the others wait and then find it."""
    result.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(result.with_name(f".{result.name}.lock")):
        yield


@contextmanager
def timed(result: Path) -> Iterator[None]:
    """Keep the seconds that a result takes to make, for `seconds_of`."""
    path = _seconds_file(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    resumed = path.exists()  # an interrupted call wrote it: nobody timed its part
    started = time.monotonic()
    path.write_text("null\n")
    yield
    path.write_text(json.dumps(None if resumed else time.monotonic() - started) + "\n")


def seconds_of(*results: Path) -> float | None:
    """Seconds that results took to make in all; None where one was interrupted, or is not there."""
    total = 0.0
    for path in map(_seconds_file, results):
        seconds: float | None = json.loads(path.read_text()) if path.exists() else None
        if seconds is None:
            return None
        total += seconds
    return total


def _seconds_file(result: Path) -> Path:
    return result.with_name(f".{result.name}.seconds.json")


def pictures_seen(phases: int) -> int:
    """Pictures that stage 1 has seen after some of the full recipe's phases."""
    return 64 * sum(steps for steps, _ in PHASES[:phases])  # global_batch_size of stage1_shapes.yaml


def relative(value: Value) -> str:
    """A path as it is written from the project's folder; anything else as it is."""
    path = Path(str(value))
    return str(path.relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else str(value)


def duration(seconds: float) -> str:
    """Seconds as people write them: 7 min 38 s."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def log(text: str) -> None:
    """Print what is being done to stderr."""
    print(f"== {text}", file=sys.stderr, flush=True)
