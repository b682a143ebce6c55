"""What a checkpoint is, read from its files alone: no torch, no weights in memory."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from vlv.identity import CONFIG_NAME, STAGE1_TYPE, STAGE2_TYPE, TRAINER_STATE_NAME, CheckpointError, read_json

_KINDS = {STAGE1_TYPE: "stage 1 (VLVAutoEncoder)", STAGE2_TYPE: "stage 2 (VLVCaptioner)"}
_RECIPE = ("run_name", "lr", "lr_schedule", "num_steps", "total_steps", "epochs", "global_batch_size", "batch_size")
_RECIPE += ("train", "precision", "param_dtype", "train_dataset_path", "dataset_path", "diffusion_weight", "seed")


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """Facts of a checkpoint's folder, in reading order.

    Raises:
        CheckpointError: not a folder of ours.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give a checkpoint's")
    if not (folder / CONFIG_NAME).is_file() and (folder / "final" / CONFIG_NAME).is_file():
        raise CheckpointError(f"{folder} is the folder of a run: give {folder / 'final'} or one of its checkpoints")
    state = read_json(folder / TRAINER_STATE_NAME) if (folder / TRAINER_STATE_NAME).is_file() else {}
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    kind = _KINDS.get(config.get("model_type", ""))
    if kind is None and not state:
        raise CheckpointError(f"{folder} is no checkpoint of VLV: its config.json names no model of ours")
    facts: dict[str, Any] = {"kind": kind or "stage 2, for resuming: trained weights alone"}
    if state:
        facts |= {"for resuming": True, "step": state["step"], "next sample": state["samples"]}
    facts |= _weights(folder)
    facts |= _origin(config, state)
    facts |= _recipe(folder)
    facts |= _metrics(folder, state.get("step"))
    return facts


def _weights(folder: Path) -> dict[str, Any]:
    count, dtypes = 0, set()
    for path in sorted(folder.glob("model*.safetensors")):
        for name, entry in read_header(path).items():
            if name != "__metadata__":
                count += math.prod(entry["shape"])
                dtypes.add(entry["dtype"])
    return {"parameters": f"{count:,}", "dtype": ", ".join(sorted(dtypes))}


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype and shape of every tensor.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return json.loads(file.read(length))
    except (struct.error, ValueError, MemoryError, OverflowError):
        raise CheckpointError(f"{path} is damaged or not complete") from None


def _origin(config: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    origin = config.get("origin") or config or state.get("identity", {})
    names = ("florence2", "decoder", "language_model")
    bases = origin.get("bases") or {name: origin[name] for name in names if origin.get(name)}
    facts = {f"base {name}": base["source"] for name, base in bases.items()}
    if origin.get("stage1"):
        facts["came from stage 1"] = origin["stage1"]["source"]
    if "draws_with_own_weights" in origin:
        facts["draws with"] = "its own weights" if origin["draws_with_own_weights"] else "its stage-1 model"
    for key in ("conditioning", "trained", "num_queries", "max_caption_tokens"):
        if key in origin or key in config:
            facts[key] = origin.get(key, config.get(key))
    return facts


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        return {"recipe": "not kept: the checkpoint was imported, or saved by hand"}
    import yaml

    recipe = yaml.safe_load(path.read_text())
    return {f"recipe {key}": recipe[key] for key in _RECIPE if key in recipe}


def _metrics(folder: Path, step: int | None) -> dict[str, Any]:
    """The last value of each metric, up to the checkpoint's step, of the run that it lies in."""
    found = [parent / "metrics.jsonl" for parent in list(folder.resolve().parents)[:2]]
    path = next((path for path in found if path.is_file()), None)
    last: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path else []:
        row = json.loads(line)
        if step is None or row["step"] <= step:
            last.update(row)
    return {f"last {key}": f"{value:.4g}" for key, value in last.items() if key in ("train/loss", "val/loss")}
