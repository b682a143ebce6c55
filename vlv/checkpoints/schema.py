"""What each kind of checkpoint is made of: the one table that all of its writers, readers and checks go by.

JSON and file names alone: quick, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.checkpoints.identity import (
    AUTO_NAME,
    CONFIG_NAME,
    ENCODER_TYPE,
    STAGE1_TYPE,
    STAGE2_TYPE,
    TRAINER_STATE_NAME,
    WEIGHTS_NAME,
    CheckpointError,
    JsonObject,
    read_json,
)

ModelKind = Literal["stage1", "stage2", "encoder"]
Kind = Literal["stage1", "stage2", "encoder", "training"]

INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
GGUF_NAME = "language_model.gguf"  # of a captioner for llama.cpp: its language model; the rest is as ever
AVERAGE_NAME = "average.safetensors"
VALIDATION_NAME = "validation.json"  # what validation said of a checkpoint for resuming; written after it
LORA_FOLDER = "lora"  # of a captioner whose LoRA is not merged: PEFT's files
SHARES = "shares"  # folder of what each process wrote of weights and optimizer, where they are sharded
SHARED_WEIGHTS = "weights."  # what the names of weights begin with there
_SHARDED = f"{WEIGHTS_NAME}|{INDEX_NAME}"  # one file, or several and their index
_RECIPE, _CARD, _PIXELS = "config.yaml", "README.md", "preprocessor_config.json"


@dataclass(frozen=True)
class Schema:
    """One kind of checkpoint.

    title: how messages name it. short: how `vlv inspect` names it. source: where one is got from, for a message.
    description: the JSON file that describes it. model_type: its `model_type`; None where the file has none.
    required, optional: keys of that file; a dot goes into an object. Those that transformers writes into each
    config.json come on top. files, more_files: those that are always there, and those that may be; a|b is either.
    """

    title: str
    short: str
    source: str
    description: str
    model_type: str | None
    required: tuple[str, ...]
    optional: tuple[str, ...]
    files: tuple[str, ...]
    more_files: tuple[str, ...] = ()

    def missing_keys(self, content: Mapping[str, object]) -> list[str]:
        """Required keys that a description lacks or has as null."""
        return [key for key in self.required if _value(content, key) is None]

    def keys(self) -> set[str]:
        """Every key on the description's first level."""
        own = {key.split(".")[0] for key in (*self.required, *self.optional)}
        return own | ({"model_type"} if self.model_type else set())


SCHEMAS: dict[Kind, Schema] = {
    "stage1": Schema(
        title="a stage-1 checkpoint (VLVAutoEncoder)",
        short="stage 1 (VLVAutoEncoder)",
        source="a stage-1 checkpoint is needed here: give <output_dir of train_stage1.sh>/final",
        description=CONFIG_NAME,
        model_type=STAGE1_TYPE,
        required=("conditioning", "num_queries", "trained", "prompt_ids", "spaces", "bases.florence2", "bases.decoder"),
        optional=("vocab_rows", "region_grid", "region_blocks", "loss_options"),
        files=(CONFIG_NAME, _PIXELS, WEIGHTS_NAME),
        more_files=(_CARD, _RECIPE),
    ),
    "stage2": Schema(
        title="a captioner (stage 2, VLVCaptioner)",
        short="stage 2 (VLVCaptioner)",
        source="a captioner is needed here: give <output_dir of train_stage2.sh>/final",
        description=CONFIG_NAME,
        model_type=STAGE2_TYPE,
        required=("encoder_config", "llm_config", "conditioner.family", "eos_token_id", "pad_token_id"),
        optional=("max_caption_tokens", "origin", "image_token_id", "adapter_bases"),
        files=(CONFIG_NAME, _PIXELS, "generation_config.json", "tokenizer_config.json", _SHARDED),
        more_files=(
            _CARD,
            _RECIPE,
            LORA_FOLDER,
            GGUF_NAME,
            AUTO_NAME,
            "tokenizer.json",
            "vocab.json",
            "merges.txt",
            "special_tokens_map.json",
        ),
    ),
    "encoder": Schema(
        title="an encoder alone (VLVEncoder)",
        short="the encoder alone (VLVEncoder)",
        source="an encoder is needed here: give what VLVEncoder.save_pretrained wrote",
        description=CONFIG_NAME,
        model_type=ENCODER_TYPE,
        required=("florence2_config", "spaces", "prompt_ids"),
        optional=(
            "num_queries",
            "image_mean",
            "image_std",
            "vocab_rows",
            "region_grid",
            "region_blocks",
            "region_alone",
        ),
        files=(CONFIG_NAME, _SHARDED),
        more_files=(_CARD,),
    ),
    # Stage 1 writes config.json and preprocessor_config.json beside it, so that a checkpoint is a model too.
    "training": Schema(
        title="a checkpoint for resuming a training",
        short="stage 2, for resuming: trained weights alone",
        source="a checkpoint of a run is needed here: give latest, or a folder checkpoints/step_*",
        description=TRAINER_STATE_NAME,
        model_type=None,
        required=("step", "samples", "identity"),
        optional=("scaler", "skipped", "files"),
        files=(
            TRAINER_STATE_NAME,
            _RECIPE,
            f"{WEIGHTS_NAME}|{SHARES}",
            f"optimizer.safetensors|deepspeed|{SHARES}",
        ),
        more_files=(AVERAGE_NAME, VALIDATION_NAME, CONFIG_NAME, _PIXELS, LORA_FOLDER),
    ),
}
MODEL_KINDS: dict[str, ModelKind] = {STAGE1_TYPE: "stage1", STAGE2_TYPE: "stage2", ENCODER_TYPE: "encoder"}


def describe(kind: Kind, values: Mapping[str, object]) -> JsonObject:
    """The content of a checkpoint's description; values that are None are left out."""
    schema = SCHEMAS[kind]
    content = {key: value for key, value in values.items() if value is not None}
    assert not schema.missing_keys(content), f"{kind}: {schema.missing_keys(content)} must be written"
    assert content.keys() <= schema.keys(), f"{kind}: {content.keys() - schema.keys()} is not in the table"
    return ({"model_type": schema.model_type} if schema.model_type else {}) | content


def read_description(folder: Path, kind: Kind) -> JsonObject:
    """The description of a checkpoint of that kind.

    Raises:
        CheckpointError: it is not there, is broken, or lacks a key.
    """
    schema = SCHEMAS[kind]
    content = read_json(folder / schema.description)
    if lacking := schema.missing_keys(content):
        raise CheckpointError(f"{folder / schema.description} is not complete: it lacks {', '.join(lacking)}")
    return content


def kind_of(folder: Path) -> ModelKind | None:
    """The kind of model in a folder, by the `model_type` of its config.json; None for anything else."""
    if not (folder / CONFIG_NAME).is_file():
        return None
    return MODEL_KINDS.get(str(read_json(folder / CONFIG_NAME).get("model_type")))


def require_checkpoint(folder: str | Path, wanted: ModelKind) -> Path:
    """Return the folder if it is a finished model of the wanted kind.

    Raises:
        CheckpointError: anything else; names what the folder is and what to give instead.
    """
    folder = Path(folder)
    need = SCHEMAS[wanted].source
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; {need}")
    if (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} is a diffusers model; {need}")
    if not (folder / CONFIG_NAME).is_file():
        if (folder / "final" / CONFIG_NAME).is_file():
            raise CheckpointError(f"{folder} is the folder of a run: give {folder / 'final'}")
        if (folder / TRAINER_STATE_NAME).is_file():
            raise CheckpointError(f"{folder} is for resuming stage 2 and holds the trained weights alone; {need}")
        raise CheckpointError(f"{folder} holds no {CONFIG_NAME}, so it is no VLV checkpoint; {need}")
    kind = kind_of(folder)
    if kind is None:
        model_type = read_json(folder / CONFIG_NAME).get("model_type", "unknown")
        raise CheckpointError(f"{folder} is a model of type {model_type}; {need}")
    if kind != wanted:
        raise CheckpointError(f"{folder} is {SCHEMAS[kind].title}; {need}")
    # Each of these refuses a folder that is not whole.
    read_description(folder, kind)
    weight_files(folder)
    return folder


def require_initial(source: str) -> Path:
    """Return the folder of a model that a training can start from: a stage-1 model or a captioner.

    Raises:
        CheckpointError: it is none.
    """
    folder = Path(source)
    if kind_of(folder) not in ("stage1", "stage2"):
        raise CheckpointError(
            f"initial_checkpoint={source} is no model of VLV: give <output_dir>/final, or an imported checkpoint"
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that hold a checkpoint's weights: one, or all that the index names.

    Raises:
        CheckpointError: one of them is not there, or each process of a sharded training has written its own.
    """
    if (folder / SHARES).is_dir():
        raise CheckpointError(f"{folder} is for resuming alone, as its weights are sharded; give <output_dir>/final")
    index = folder / INDEX_NAME
    names = [WEIGHTS_NAME]
    if index.is_file() and not (folder / WEIGHTS_NAME).is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise CheckpointError(f"{index} is no index of shards: it has no weight_map")
        names = sorted({str(name) for name in places.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not complete: {', '.join(missing[:3])} is missing")
    return [folder / name for name in names]


def _value(content: Mapping[str, object], key: str) -> object:
    value: object = content
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def require_merged(captioner: str | Path, wanted: str) -> None:
    """Check that what reads a captioner's own weights alone finds its LoRA in them.

    Args:
        wanted: the setting that wants it so, for the message.

    Raises:
        CheckpointError: the folder's LoRA lies beside them.
    """
    if (Path(captioner) / LORA_FOLDER).is_dir():
        raise CheckpointError(
            f"{wanted}: LoRA of {captioner} is not merged yet: vlv export {captioner} MERGED, and caption with that "
            "folder"
        )
