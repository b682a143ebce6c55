"""The work that is killed: how it is called, when it may be hit, where a kill has hit it, and what it must come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlv.chaos.comparison import Findings, Values, logged
from vlv.chaos.lives import Moment
from vlv.config.chaos import ChaosConfig, ChaosJob
from vlv.resources import recipes_folder
from vlv.shapes.runs import FAMILY, TRAINED, Data, Settings, make_data, vlv_call

PICTURES, PAIRS = 512, 512
_BATCH, _SAVE_STEP, _DROPOUT = 8, 5, 0.5
# Everything that a checkpoint may have to hold: a moving average, random numbers of several kinds, parts with rates of
# their own, two micro-batches a step in one process, and as many samples in each in two.
_TRAINING: Settings = {
    "save_step": _SAVE_STEP,
    "keep_checkpoints": 2,
    "log_every": 1,
    "val_max_samples": 16,
    "val_pictures": 2,
    "val_inference_steps": 2,
    "ema_decay": 0.9,
    "keep_results": 64,
    "resume": "latest",
}
_STAGE1: Settings = {
    "global_batch_size": _BATCH,
    "max_micro_batch": _BATCH // 2,
    "conditioning_dropout": 0.1,
    "florence2_model_path": FAMILY / "florence2",
    "stable_diffusion_model_path": FAMILY / "stable-diffusion",
}
_STAGE2: Settings = {
    "train": "[mlp,llm,encoder]",
    "keep_results": 0,
    "qwen_model": FAMILY / "qwen",
    "diffusion_model_path": TRAINED / "stage1",
}


@dataclass(frozen=True)
class Hit:
    """What a kill has hit.

    place: start, where no new work was to be seen; else the kind of work. torn: files or folders left half written.
    again: steps that the next life takes again.
    """

    place: str
    torn: int = 0
    again: int = 0


class Job(Protocol):
    """One kind of work."""

    @property
    def unit(self) -> str:
        """Of the work: steps or images."""
        ...

    def call(self, folder: Path, processes: int, workers: int) -> list[str]:
        """The command line of a life that works in a folder."""
        ...

    def moments(self, folder: Path, seconds: float) -> list[tuple[float, Moment]]:
        """When a life in a folder may be killed, each with its weight; an untouched run takes so many seconds."""
        ...

    def look(self, folder: Path, before: Hashable) -> Hit:
        """Where a kill has hit, by what lies in the folder; `before` is the mark of the life's start."""
        ...

    def mark(self, folder: Path) -> Hashable:
        """What a life finds when it starts."""
        ...

    def compare(self, folder: Path, reference: Path, findings: Findings) -> None:
        """Compare what a run is, or has come to so far, with a finished one."""
        ...

    def finish(self, folder: Path, reference: Path, findings: Findings) -> None:
        """Compare all of a finished run."""
        ...


def build_job(config: ChaosConfig, folder: Path) -> Job:
    """The job of a call, with its data made in a folder."""
    kind: ChaosJob = config.job or "stage1"
    training = kind in ("stage1", "stage2")
    made = make_data(
        folder / f"{kind}_{config.images}",
        pictures=PICTURES if kind == "stage1" else 0,
        pairs=PAIRS if kind == "stage2" else 0,
        test=0 if training else config.images,
    )
    # Dropout draws anew for each process, so with another number of them it is another training.
    dropout = _DROPOUT if len(set(config.processes)) == 1 else 0.0
    return Training(kind, made, config.steps, dropout) if training else Inference(kind, made, config.images)


def _command(kind: str, settings: Settings, processes: int, workers: int) -> list[str]:
    shared: Settings = {"num_gpus": processes, "num_workers": workers, "precision": "fp32"}
    if processes > 1:
        shared = {**shared, "accelerate_config": recipes_folder() / "accelerate" / "cpu.yaml"}
    return vlv_call(kind, f"{kind}_shapes", {**settings, **shared})


@dataclass(frozen=True)
class Training:
    """A training of a stage."""

    kind: str
    data: Data
    steps: int
    nested_dropout: float
    unit: str = "steps"

    def call(self, folder: Path, processes: int, workers: int) -> list[str]:
        """The command line of a life; stage 2's batch is that of a process, so it shrinks as their number grows."""
        paths: Settings = {
            "val_dataset_path": self.data.val,
            "output_dir": folder,
            "nested_dropout": self.nested_dropout,
        }
        if self.kind == "stage1":
            stage: Settings = {**_STAGE1, "train_dataset_path": self.data.pictures, "num_steps": self.steps}
        else:
            batch = max(1, _BATCH // 2 // processes)
            split = {"batch_size": batch, "accumulation": _BATCH // batch // processes}
            stage = {**_STAGE2, "dataset_path": self.data.pairs, "total_steps": self.steps, **split}
        return _command(self.kind, {**_TRAINING, **paths, **stage}, processes, workers)

    def moments(self, folder: Path, seconds: float) -> list[tuple[float, Moment]]:
        """Anywhere, at the start, and in each kind of write."""

        def names(pattern: str) -> Callable[[], Hashable]:
            return lambda: frozenset(path.name for path in folder.glob(pattern))

        return [
            (0.25, Moment("anywhere", None, seconds)),
            (0.1, Moment("start", None, seconds / 3)),
            (0.35, Moment("save", names("checkpoints/.writing-*"), 0.03, changes=8)),
            (0.2, Moment("validation", names("checkpoints/step_*"), 0.3, changes=4)),
            (0.1, Moment("final write", names(".writing-final"), 0.03)),
        ]

    def mark(self, folder: Path) -> Hashable:
        """When the metrics were last written, and the step that a life starts from."""
        path = folder / "metrics.jsonl"
        return path.stat().st_mtime_ns if path.is_file() else None, _newest_step(folder)

    def look(self, folder: Path, before: Hashable) -> Hit:
        """Where a kill has hit."""
        torn = [*folder.glob("checkpoints/.writing-*"), *folder.glob(".writing-final")]
        step, saved = max((_step(key) for key, _ in logged(folder)), default=0), _newest_step(folder)
        # In this order: the final write has no step of its own, and a life that is killed early leaves the lines and
        # the torn files of the one before it.
        if any(path.name == ".writing-final" for path in torn):
            return Hit("final write", len(torn))
        if self.mark(folder) == before or step == 0:
            return Hit("start", len(torn))
        if torn:
            return Hit("save", len(torn), max(0, step - saved))
        newest = folder / "checkpoints" / f"step_{saved:08d}"
        if step == saved and newest.is_dir() and not (newest / "validation.json").is_file():
            return Hit("validation")
        return Hit("training", 0, max(0, step - saved))

    def compare(self, folder: Path, reference: Path, findings: Findings) -> None:
        """Each loss that has been logged: those of steps that will be taken again, too."""
        findings.compare_losses(folder.name, dict(logged(folder)), _by_key(reference))

    def finish(self, folder: Path, reference: Path, findings: Findings) -> None:
        """Weights, their average, the optimizer's state, where the run stands, and that each step is there once."""
        last = f"checkpoints/step_{self.steps:08d}"
        for kind, pattern in (
            ("weights and their average", f"{last}/[am]*.safetensors"),
            ("optimizer states", f"{last}/optimizer.safetensors"),
            ("finished models", "final/*.safetensors"),
        ):
            findings.compare_files(kind, folder, reference, pattern)
        findings.add("positions in the data", str(folder), _position(folder / last) == _position(reference / last))
        findings.count((key for key, _ in logged(folder)), (key for key, _ in logged(reference)))
        _compare_leftovers(folder, findings)


@dataclass(frozen=True)
class Inference:
    """Captions or reconstructions of a folder of images."""

    kind: str
    data: Data
    images: int
    unit: str = "images"

    def call(self, folder: Path, processes: int, workers: int) -> list[str]:
        """The command line of a life."""
        settings: Settings = {"image_path": self.data.test, "batch_size": _BATCH}
        if self.kind == "caption":
            settings = {**settings, "ckpt_dir": TRAINED / "captioner", "output_path": folder / "captions.json"}
        else:
            sampling: Settings = {"num_inference_steps": 4, "extractor": "vision_tower"}
            settings = {**settings, **sampling, "ckpt_dir": TRAINED / "stage1", "output_dir": folder}
        return _command(self.kind, settings, processes, workers)

    def moments(self, folder: Path, seconds: float) -> list[tuple[float, Moment]]:
        """Anywhere, at the start, and as results are written."""
        return [
            (0.35, Moment("anywhere", None, seconds)),
            (0.15, Moment("start", None, seconds / 3)),
            (0.5, Moment("write", lambda: self.mark(folder), 0.02, changes=8)),
        ]

    def mark(self, folder: Path) -> Hashable:
        """What is finished so far."""
        if self.kind == "caption":
            return tuple(path.stat().st_size for path in sorted(folder.glob("*.partial/**/*.jsonl")))
        return sum(1 for _ in folder.glob("reconstructions/**/*.png"))

    def look(self, folder: Path, before: Hashable) -> Hit:
        """Where a kill has hit."""
        torn = sum(1 for path in folder.rglob(".*.tmp"))
        for path in folder.glob("*.partial/**/*.jsonl"):
            torn += not path.read_bytes().endswith(b"\n")
        return Hit("start" if self.mark(folder) == before else "work", torn)

    def compare(self, folder: Path, reference: Path, findings: Findings) -> None:
        """Nothing before the end: what is there then is compared."""

    def finish(self, folder: Path, reference: Path, findings: Findings) -> None:
        """Every image once, and its caption or pictures."""
        if self.kind == "caption":
            ours, theirs = _pairs(folder / "captions.json"), _pairs(reference / "captions.json")
            findings.count((name for name, _ in ours), (name for name, _ in theirs))
            expected = dict(theirs)
            for name, text in ours:
                findings.add("captions", f"{folder.name}: {name}", expected.get(name) == text)
        else:
            pattern = "reconstructions/**/*.png"
            found, wanted = (sorted(path.name for path in top.glob(pattern)) for top in (folder, reference))
            findings.count(found, wanted)
            findings.compare_pictures(folder, reference, pattern)
            findings.compare_measures(folder, reference)
        _compare_leftovers(folder, findings)


def _compare_leftovers(folder: Path, findings: Findings) -> None:
    """Nothing half written may lie in a finished run's folder."""
    left = [path for path in folder.rglob(".*") if path.name != ".lock" and not path.name.endswith(".lock")]
    left += folder.glob("*.partial")
    findings.add("folders without anything left over", ", ".join(map(str, left)) or str(folder), not left)


def _by_key(folder: Path) -> dict[str, Values]:
    return dict(logged(folder))


def _step(key: str) -> int:
    return int(key.rpartition(" ")[2])


def _newest_step(folder: Path) -> int:
    steps = [path.name.removeprefix("step_") for path in folder.glob("checkpoints/step_*")]
    return max(map(int, steps), default=0)


def _position(checkpoint: Path) -> dict[str, object]:
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text()) if path.is_file() else {}
    return {key: state.get(key) for key in ("step", "samples", "skipped")}


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The entries of a caption file; of a name that is there twice, both."""
    return json.loads(path.read_text(), object_pairs_hook=list)
