"""What a checkpoint is, read from its files alone: no torch, no weights in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.checkpoints.identity import CONFIG_NAME, TRAINER_STATE_NAME, CheckpointError, JsonObject
from vlv.checkpoints.origin import adapter_bases
from vlv.checkpoints.schema import (
    GGUF_NAME,
    LORA_FOLDER,
    SCHEMAS,
    SHARED_WEIGHTS,
    SHARES,
    kind_of,
    read_description,
    weight_files,
)

if TYPE_CHECKING:
    from huggingface_hub.utils import TensorInfo

_RECIPE = ("run_name", "lr", "lr_schedule", "num_steps", "total_steps", "epochs", "global_batch_size", "batch_size")
_RECIPE += ("train", "precision", "param_dtype", "train_dataset_path", "dataset_path", "diffusion_weight", "seed")


def describe_checkpoint(folder: Path) -> JsonObject:
    """Facts of a checkpoint's folder, in reading order.

    Raises:
        CheckpointError: not a folder of ours, or one that is not whole.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give a checkpoint's")
    if not (folder / CONFIG_NAME).is_file() and (folder / "final" / CONFIG_NAME).is_file():
        raise CheckpointError(f"{folder} is the folder of a run: give {folder / 'final'} or one of its checkpoints")
    kind = kind_of(folder)
    resumes = (folder / TRAINER_STATE_NAME).is_file()
    if kind is None and not resumes:
        raise CheckpointError(f"{folder} is no checkpoint of VLV: its config.json names no model of ours")
    config = read_description(folder, kind) if kind else {}
    state = read_description(folder, "training") if resumes else {}
    facts: JsonObject = {"kind": SCHEMAS[kind or "training"].short}
    if state:
        facts |= {"for resuming": True, "step": state["step"], "next sample": state["samples"]}
    facts |= _weights(folder)
    if (folder / GGUF_NAME).is_file():
        facts["language model"] = f"{GGUF_NAME}, for llama.cpp; the parameters above are the rest's"
    facts |= _origin(folder, config, state)
    facts |= _recipe(folder)
    facts |= _metrics(folder, state.get("step"))
    return facts


def is_ours(path: Path) -> bool:
    """Whether a path is a folder that one of our models, or a training of ours, was saved in."""
    if (path / TRAINER_STATE_NAME).is_file() or (path / "final" / CONFIG_NAME).is_file():
        return True
    return kind_of(path) is not None


def _weights(folder: Path) -> JsonObject:
    count, dtypes = 0, set()
    shares = sorted((folder / SHARES).glob("*.safetensors"))
    for path in shares or weight_files(folder):
        # Shares hold the optimizer's state too.
        tensors = [info for name, info in read_header(path).items() if not shares or name.startswith(SHARED_WEIGHTS)]
        count += sum(info.parameter_count for info in tensors)
        dtypes |= {info.dtype for info in tensors}
    return {"parameters": f"{count:,}", "dtype": ", ".join(sorted(dtypes))}


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Number format and shape of every tensor of a safetensors file, from its header.

    Raises:
        CheckpointError: the file is damaged, or shorter or longer than its header says.
    """
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        tensors = parse_local_safetensors_file_metadata(path).tensors
    # The library names what is no JSON object; entries of another form than it expects fail wherever it is.
    except (SafetensorsParsingError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged or not complete") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    # Not looked at by the library: a copy that was cut has a whole header.
    end = 8 + length + max((info.data_offsets[1] for info in tensors.values()), default=0)
    if path.stat().st_size != end:
        raise CheckpointError(f"{path} is damaged or not complete: {path.stat().st_size:,} bytes instead of {end:,}")
    return tensors


def _origin(folder: Path, config: JsonObject, state: JsonObject) -> JsonObject:
    origin = config.get("origin") or config or state.get("identity", {})
    names = ("florence2", "decoder", "language_model")
    bases = origin.get("bases") or {name: origin[name] for name in names if name in origin}
    unknown = "not known: it was imported, and is not on the one that was given"
    facts = {f"base {name}": base["source"] if base else unknown for name, base in bases.items()}
    if origin.get("stage1"):
        facts["came from stage 1"] = origin["stage1"]["source"]
    if origin.get("draws_with_own_weights"):
        facts["images from"] = "its own weights"
    elif "draws_with_own_weights" in origin:
        facts["images from"] = "its stage-1 model" if origin.get("stage1") else "a stage-1 model, named by stage1_path"
    if left := adapter_bases(config):
        facts["adapter"] = f"the weights of {', '.join(left)} are in these bases alone"
    if lora := origin.get("lora"):
        facts["LoRA"] = f"rank {lora['rank']}, alpha {lora['alpha']:g}{_merged(folder)}"
    for key in ("conditioning", "trained", "num_queries", "region_grid", "max_caption_tokens"):
        if (value := origin.get(key, config.get(key))) is not None:  # an encoder's own config has all keys
            facts[key] = value
    return facts


def _merged(folder: Path) -> str:
    return f", by itself in {LORA_FOLDER}/" if (folder / LORA_FOLDER).is_dir() else ", merged"


def _recipe(folder: Path) -> JsonObject:
    path = folder / "config.yaml"
    if not path.is_file():
        return {"recipe": "not kept: the checkpoint was imported, or saved by hand"}
    import yaml

    recipe = yaml.safe_load(path.read_text())
    return {f"recipe {key}": recipe[key] for key in _RECIPE if key in recipe}


def _metrics(folder: Path, step: int | None) -> JsonObject:
    """The last value of each metric, up to the checkpoint's step, of the run that it lies in."""
    # A run's folder is one above `final`, and two above a checkpoint.
    found = [parent / "metrics.jsonl" for parent in list(folder.resolve().parents)[:2]]
    path = next((path for path in found if path.is_file()), None)
    last: JsonObject = {}
    for line in path.read_text().splitlines() if path else []:
        row = json.loads(line)
        if step is None or row["step"] <= step:
            last |= {key: value for key, value in row.items() if value is not None}  # null is what was not finite
    return {f"last {key}": f"{value:.4g}" for key, value in last.items() if key in ("train/loss", "val/loss")}
