"""Components from a local folder or a hub id, in the hub's own layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Florence2Model,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vlv.identity import OWN_BASES, CheckpointError, is_hub_id, read_json, require_same_component
from vlv.models.decoders.interface import EmbeddingSpace
from vlv.models.encoder import VLVEncoder, VLVEncoderConfig, prompt_token_ids
from vlv.models.florence2 import is_original_config, load_original

# What Florence-2's task token <MORE_DETAILED_CAPTION> stands for.
TASK_PROMPT = "Describe with a paragraph what is shown in the image."
# What a snapshot needs, without the same weights in other formats beside it.
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "*/*.safetensors"]
_DUPLICATES = ["*.fp16.*", "*non_ema*", "safety_checker/*", "onnx/*"]


def resolve_component(source: str, option: str) -> Path:
    """The local folder of a component: `source` itself, or the hub's snapshot of that id.

    Args:
        source: a folder, or a hub id such as `Qwen/Qwen2.5-3B`.
        option: name of the setting, for the message.

    Raises:
        CheckpointError: no such folder, and no hub id that can be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(source):
        raise CheckpointError(
            f"{option}={source} is not there: scripts/download_pretrained.sh fetches the components, or name a folder"
        )
    try:
        return Path(snapshot_download(source, allow_patterns=_FILES, ignore_patterns=_DUPLICATES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{option}={source} is neither a folder nor a hub model that can be fetched ({reason})"
        ) from None


def load_florence2(folder: Path, dtype: torch.dtype) -> Florence2Model:
    """Florence-2 without its language head, from the native or the original layout.

    The dtype is always given: the native config says float16, which would be taken otherwise.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "florence2":
        raise CheckpointError(f"{folder} holds a model of type {config.get('model_type')}, not Florence-2")
    if is_original_config(config):
        return load_original(folder, config, dtype)
    return Florence2Model.from_pretrained(folder, dtype=dtype)


def build_encoder(
    florence2_folder: Path,
    spaces: tuple[EmbeddingSpace, ...],
    num_queries: int,
    *,
    encoder_resolution: int,
    dtype: torch.dtype = torch.float32,
    prompt_ids: list[int] | None = None,
) -> VLVEncoder:
    """A new encoder on pretrained Florence-2: queries and projection are random, from torch's seed.

    Raises:
        ValueError: more queries than an embedding space or Florence-2's decoder has positions for, or more
            image tokens than Florence-2 has positions for.
    """
    florence2 = load_florence2(florence2_folder, dtype)
    text_config: Any = florence2.config.text_config
    positions = text_config.max_position_embeddings
    limit = min([positions, *(space.max_length for space in spaces)])
    if not 1 <= num_queries <= limit:
        raise ValueError(f"num_queries={num_queries} cannot be used: give 1 to {limit}, the text encoder's limit")
    if prompt_ids is None:
        prompt_ids = prompt_token_ids(load_tokenizer(florence2_folder, "florence2_model_path"), TASK_PROMPT)
    _check_resolution(florence2, encoder_resolution, len(prompt_ids))
    config = VLVEncoderConfig(
        # A copy: a config that holds the loaded model's own would reset its attention implementation.
        florence2_config=florence2.config.to_dict(),
        spaces={space.name: space.width for space in spaces},
        num_queries=num_queries,
        prompt_ids=prompt_ids,
    )
    return VLVEncoder(config, florence2)


def _check_resolution(florence2: Florence2Model, resolution: int, num_prompt_ids: int) -> None:
    """Check that the image tokens of a resolution fit into Florence-2's learned positions."""
    text_config: Any = florence2.config.text_config
    vision_config: Any = florence2.config.vision_config
    stride = math.prod(vision_config.patch_stride)
    side = math.ceil(resolution / stride)
    # One token a cell and one for their mean; then the prompt.
    largest = min(
        vision_config.max_position_embeddings,
        math.isqrt(text_config.max_position_embeddings - num_prompt_ids - 1),
    )
    if side > largest:
        raise ValueError(
            f"encoder_resolution={resolution} gives {side} x {side} image tokens, more than this Florence-2 has "
            f"positions for: give at most {largest * stride}"
        )


def load_language_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Any causal language model that transformers loads."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def load_tokenizer(folder: Path, option: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a component's folder.

    Raises:
        CheckpointError: there is none.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(f"{option}: {folder} holds no tokenizer (tokenizer.json or vocab.json)")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{option}: the tokenizer in {folder} cannot be read ({error})") from None


def resolve_base(identity: dict[str, str], given: str | None, option: str, checkpoint: Path) -> str:
    """The place of a frozen base: the given one, or where training found it; checked to be the same.

    Raises:
        CheckpointError: it is not there, or is another component.
    """
    source = given or identity["source"]
    if not given and source.startswith(OWN_BASES):
        source = str(checkpoint / source)
    try:
        folder = resolve_component(source, option)
    except CheckpointError:
        if given:
            raise
        raise CheckpointError(
            f"{checkpoint} was trained on {source}, which is not there any more: set {option} to where it lies now"
        ) from None
    require_same_component(option.removesuffix("_model_path"), folder, identity, option)
    return source


def load_trained(model: nn.Module, path: Path) -> None:
    """Fill a model's trained parameters from a safetensors file that holds exactly them.

    Raises:
        CheckpointError: a name or a shape that does not fit.
    """
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or not complete ({error}): copy or download it again") from None
    wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit the model: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}"
        )
    for name, value in wanted.items():
        if value.shape != weights[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the model wants {tuple(value.shape)}"
            )
        value.data.copy_(weights[name])
