"""The number format of a run, settled before anything is loaded."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vlv.checkpoints.identity import JsonObject, weight_files
from vlv.checkpoints.pretrained import resolve_component
from vlv.checkpoints.resume import find_checkpoint
from vlv.config import Stage1Config, Stage2Config
from vlv.inference.identity import checkpoint_identity
from vlv.inference.journal import read_json
from vlv.training.precision import LARGE, Choice, check_precision, choose_precision, cpu_has_bf16, on_gpu

AnyTraining = TypeVar("AnyTraining", Stage1Config, Stage2Config)


def settle_precision(
    precision: str, weights: str, option: str, recorded: object = None, elsewhere: bool = False
) -> Choice:
    """What `precision` means for a run; where `auto` measured this CPU, it is printed which and why.

    Args:
        weights: folder or hub id of the largest part that is computed with; its size counts. option: its setting.
        recorded: what the run that is continued had chosen: `auto` goes on with it, on whatever machine.
        elsewhere: other machines compute, of which this one knows nothing.

    Raises:
        ValueError: fp16 without a GPU, or no such folder.
    """
    if precision != "auto":
        return Choice(check_precision(precision), "as set")
    if recorded in ("fp32", "bf16") or (recorded == "fp16" and on_gpu()):
        return Choice(check_precision(str(recorded)), "as the run that it continues")
    asks = not on_gpu() and not elsewhere and cpu_has_bf16()  # else nothing hangs on the size, and no hub is asked
    # Configs alone, as a dry run may have, are those of published models.
    size = (_size(resolve_component(weights, option)) or LARGE) if asks else 0
    unknown = Choice("fp32", "other machines compute; set precision=bf16 where they have GPUs")
    choice = unknown if elsewhere and not on_gpu() else choose_precision(size)
    if (elsewhere or size >= LARGE) and os.environ.get("RANK", "0") == "0":
        print(f"precision=auto is {choice.precision}: {choice.reason}", file=sys.stderr)
    return choice


def settle_training(config: AnyTraining, weights: str, option: str) -> tuple[AnyTraining, Choice]:
    """The config of a training with the number format that it computes in, which its checkpoints then record.

    Args:
        weights, option: as of `settle_precision`.

    Raises:
        ValueError: as of `settle_precision`, or `resume` is no checkpoint.
    """
    import yaml

    found = find_checkpoint(config.resume, Path(config.output_dir) / "checkpoints")
    saved = None if found is None else found / "config.yaml"
    recorded = yaml.safe_load(saved.read_text()).get("precision") if saved is not None and saved.is_file() else None
    if recorded == "auto" and not on_gpu():
        recorded = "fp32"  # what it was on every CPU before checkpoints recorded the choice
    choice = settle_precision(config.precision, weights, option, recorded)
    return replace(config, precision=choice.precision), choice


def settle_inference(
    precision: str, checkpoint: str, path: Path, elsewhere: bool = False, **options: object
) -> tuple[str, JsonObject]:
    """The number format of an inference run, and what decides its results beside its own settings.

    Args:
        path: JSON file of what decides the results of the run that it continues, where there is one.
        elsewhere: as of `settle_precision`. options: further settings of the model.

    Raises:
        ValueError: as of `settle_precision`.
    """
    identity = checkpoint_identity(checkpoint, precision, **options)
    found, decides = read_json(path), identity.keys() - {"precision"}
    recorded = None
    if isinstance(found, dict) and all(found.get(key) == identity[key] for key in decides):
        recorded = found.get("precision")
    settled = settle_precision(precision, checkpoint, "ckpt_dir", recorded, elsewhere).precision
    return settled, {**identity, "precision": settled}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(folder))
