"""The small world's trainings and inferences: each a process `python -m vlv ...`, skipped where its result is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vlv.resources import assets_folder, project_folder, recipes_folder

ROOT = project_folder()
FAMILY = assets_folder() / "tiny"
TRAINED = FAMILY / "trained"
FIRST_PAIR = 100_000  # number of stage 2's first scene: the ones before are stage 1's pictures
GUIDANCE = 1.5  # at which the tiny Stable Diffusion generates best from true sentences
Value = str | int | float | Path
Settings = Mapping[str, Value]
_STAGE1_PARTS: Settings = {
    "stable_diffusion_model_path": FAMILY / "stable-diffusion",
    "florence2_model_path": FAMILY / "florence2",
}


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


def make_data(folder: Path, *, pairs: int, test: int = 0, pictures: int = 0, unseen: int = 0, subset: int = 0) -> Data:
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
    paths: Settings = {"train_dataset_path": data.pictures, "val_dataset_path": data.val, **_STAGE1_PARTS}
    return _train("stage1", "stage1_shapes", output_dir, {**paths, **settings})


def train_stage2(output_dir: Path, data: Data, stage1: Path, settings: Settings, recipe: str = "stage2_shapes") -> Path:
    """Train stage 2 on the pairs, once; returns the finished captioner's folder."""
    paths: Settings = {
        "dataset_path": data.pairs,
        "val_dataset_path": data.val,
        "qwen_model": FAMILY / "qwen",
        "diffusion_model_path": stage1,
    }
    return _train("stage2", recipe, output_dir, {**paths, **settings})


def new_stage1(folder: Path, settings: Settings | None = None) -> Path:
    """Write, once, the stage-1 model that a training with these settings starts from; returns its folder.

    But for what reads regions, which the training starts from its first pictures.
    """
    with one_at_a_time(folder):
        if not folder.is_dir():
            import torch

            from vlv.config import Stage1Config, load_config
            from vlv.recipes.stage1 import build_autoencoder

            config = load_config(Stage1Config, _recipe("stage1_shapes"), _given({**_STAGE1_PARTS, **(settings or {})}))
            torch.manual_seed(config.seed)
            build_autoencoder(config, "fp32").save_pretrained(folder)
    return folder


def new_captioner(folder: Path, stage1: Path) -> Path:
    """Write, once, the captioner that a stage 2 starts from, its MLP random; returns its folder."""
    with one_at_a_time(folder):
        if not folder.is_dir():
            import torch

            from vlv.config import Stage2Config, load_config
            from vlv.recipes.stage2 import build_captioner

            paths: Settings = {"qwen_model": FAMILY / "qwen", "diffusion_model_path": stage1}
            config = load_config(Stage2Config, _recipe("stage2_shapes"), _given(paths))
            torch.manual_seed(config.seed)
            build_captioner(config, torch.float32).save_pretrained(folder)
    return folder


def own_model(stage1: Path, captioner: Path, folder: Path) -> Path:
    """A stage-1 model with a captioner's own encoder, to generate pictures with; written once."""
    with one_at_a_time(folder):
        if not folder.is_dir():
            from vlv import VLVAutoEncoder
            from vlv.checkpoints.initial import load_initial

            model = VLVAutoEncoder.from_pretrained(stage1)
            load_initial(model, str(captioner))
            model.save_pretrained(folder)
    return folder


def _train(command: str, recipe: str, output_dir: Path, settings: Settings) -> Path:
    from vlv.training.precision import fastest_precision

    final = output_dir / "final"
    values: Settings = {"output_dir": output_dir, "resume": "latest", "precision": fastest_precision(), **settings}
    with one_at_a_time(output_dir):
        if final.is_dir():
            log(f"{relative(final)} is there")
        else:
            with timed(output_dir):
                run_vlv(command, recipe, values)
    return final


def caption(captioner: Path, images: Path, output: Path, settings: Settings | None = None) -> Path:
    """Caption images, once; returns the caption file."""
    if not output.exists():
        with timed(output):
            values: Settings = {"image_path": images, "ckpt_dir": captioner, "output_path": output, **(settings or {})}
            run_vlv("caption", "caption_shapes", values)
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
    config = _recipe(recipe)
    shown = [f"{name}={relative(value)}" for name, value in settings.items()]
    log(" ".join(["vlv", command, "--config", relative(config), *shown]))
    process = subprocess.run(vlv_call(command, recipe, settings), check=False)
    if code := process.returncode:
        raise RunError(f"vlv {command} ended with exit code {code}; the same command resumes where it stopped")


def vlv_call(command: str, recipe: str, settings: Settings) -> list[str]:
    """The command line of `vlv COMMAND` with a shipped recipe, as a process of its own is started."""
    return [sys.executable, "-m", "vlv", command, "--config", str(_recipe(recipe)), *_given(settings)]


def _recipe(name: str) -> Path:
    return recipes_folder() / f"{name}.yaml"


def _given(settings: Settings) -> list[str]:
    """Settings as a command line gives them."""
    return [f"{name}={value}" for name, value in settings.items()]


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
