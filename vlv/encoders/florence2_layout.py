"""Florence-2 from either layout on disk: transformers-native, or the original remote-code naming.

The native config class reads an original config.json without complaint and silently keeps its
default widths, so the original one is converted here, and its weights renamed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, Florence2Config, Florence2Model

from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.identity import JsonObject

# Original name -> name inside Florence2Model. None: not needed, as `lm_head` is tied to the embedding natively.
_RENAMES: tuple[tuple[str, str | None], ...] = (
    (r"^vision_tower\.convs\.(\d+)\.proj\.", r"vision_tower.convs.\1.conv."),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.(conv[12])\.fn\.dw\.",
        r"vision_tower.blocks.\1.\2.\3_block.\4.",
    ),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.(window|channel)_attn\.norm\.",
        r"vision_tower.blocks.\1.\2.\3_block.norm1.",
    ),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.(window|channel)_attn\.fn\.",
        r"vision_tower.blocks.\1.\2.\3_block.\4_attn.",
    ),
    (r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.ffn\.norm\.", r"vision_tower.blocks.\1.\2.\3_block.norm2."),
    (r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.ffn\.fn\.net\.", r"vision_tower.blocks.\1.\2.\3_block.ffn."),
    (r"^image_projection$", "multi_modal_projector.image_projection.weight"),
    (r"^image_proj_norm\.", "multi_modal_projector.image_proj_norm."),
    (r"^image_pos_embed\.", "multi_modal_projector.image_position_embed."),
    (r"^visual_temporal_embed\.", "multi_modal_projector.visual_temporal_embed."),
    (r"^language_model\.model\.", "language_model."),
    (r"^language_model\.lm_head\.", None),
    (r"^language_model\.final_logits_bias$", None),
)

# Name inside Florence2ForConditionalGeneration, without `model.` -> original name.
_ORIGINAL_NAMES: tuple[tuple[str, str], ...] = (
    (r"^vision_tower\.convs\.(\d+)\.conv\.", r"vision_tower.convs.\1.proj."),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.(conv[12])\.",
        r"vision_tower.blocks.\1.\2.\3_block.\4.fn.dw.",
    ),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.spatial_block\.norm1\.",
        r"vision_tower.blocks.\1.\2.spatial_block.window_attn.norm.",
    ),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.channel_block\.norm1\.",
        r"vision_tower.blocks.\1.\2.channel_block.channel_attn.norm.",
    ),
    (
        r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.(window|channel)_attn\.",
        r"vision_tower.blocks.\1.\2.\3_block.\4_attn.fn.",
    ),
    (r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.norm2\.", r"vision_tower.blocks.\1.\2.\3_block.ffn.norm."),
    (r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(\w+)_block\.ffn\.", r"vision_tower.blocks.\1.\2.\3_block.ffn.fn.net."),
    (r"^multi_modal_projector\.image_projection\.weight$", "image_projection"),
    (r"^multi_modal_projector\.image_proj_norm\.", "image_proj_norm."),
    (r"^multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
    (r"^multi_modal_projector\.visual_temporal_embed\.", "visual_temporal_embed."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^language_model\.", "language_model.model."),
)


def is_original_config(config: JsonObject) -> bool:
    """Whether a Florence-2 config.json is the original remote-code one."""
    return "dim_embed" in config.get("vision_config", {})


def convert_config(original: JsonObject) -> Florence2Config:
    """Turn an original Florence-2 config.json into the native config."""
    vision = dict(original["vision_config"])
    vision["embed_dim"] = vision.pop("dim_embed")
    vision["max_position_embeddings"] = vision.pop("image_pos_embed")["max_pos_embeddings"]
    vision["max_temporal_embeddings"] = vision.pop("visual_temporal_embedding")["max_temporal_embeddings"]
    for key in ("model_type", "enable_checkpoint", "image_feature_source"):
        vision.pop(key, None)
    # Left out are generation settings, labels, and options of BART's relatives that the original has off.
    known = ("activation", "attention", "bos", "classifier_dropout", "d_model", "decoder", "dropout", "encoder", "eos")
    known += ("init_std", "max_position_embeddings", "num_hidden_layers", "pad_token_id", "scale_embedding", "vocab")
    text = {key: value for key, value in original["text_config"].items() if key.startswith(known)}
    text.update(model_type="bart", tie_word_embeddings=True)  # tied natively, whatever the original says
    return Florence2Config(text_config=text, vision_config=vision)


def rename_original(name: str) -> str | None:
    """Map an original weight name to its name in Florence2Model; None where it is dropped on purpose."""
    for pattern, replacement in _RENAMES:
        if re.match(pattern, name):
            return None if replacement is None else re.sub(pattern, replacement, name)
    return name


def convert_weights(original: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename original Florence-2 weights for Florence2Model; `image_projection` is transposed to a Linear's."""
    converted = {}
    for name, value in original.items():
        renamed = rename_original(name)
        if renamed is not None:
            converted[renamed] = value.t().contiguous() if name == "image_projection" else value
    return converted


def original_config(config: Florence2Config) -> JsonObject:
    """The original config.json of a native config: the way back from `convert_config`."""
    native: JsonObject = config.to_dict()
    vision, text = dict(native["vision_config"]), dict(native["text_config"])
    vision["dim_embed"] = vision.pop("embed_dim")
    positions, temporal = vision.pop("max_position_embeddings"), vision.pop("max_temporal_embeddings")
    vision["image_pos_embed"] = {"type": "learned_abs_2d", "max_pos_embeddings": positions}
    vision["visual_temporal_embedding"] = {"type": "COSINE", "max_temporal_embeddings": temporal}
    vision.update(model_type="davit", image_feature_source=["spatial_avg_pool", "temporal_avg_pool"])
    text["model_type"] = "florence2_language"
    return {
        "model_type": "florence2",
        "architectures": ["Florence2ForConditionalGeneration"],
        "projection_dim": vision["projection_dim"],
        "vocab_size": text["vocab_size"],
        "vision_config": vision,
        "text_config": text,
    }


def original_weights(native: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of Florence2Model under their original names: the way back from `convert_weights`."""
    weights = {}
    for name, value in native.items():
        original = original_name(name)
        weights[original] = (value.t() if original == "image_projection" else value).clone().contiguous()
    return weights


def original_name(name: str) -> str:
    """The original name of a weight of Florence2Model: the way back from `rename_original`."""
    for pattern, replacement in _ORIGINAL_NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def new_florence2(config: Florence2Config) -> Florence2Model:
    """Florence2Model with new weights.

    Not by its constructor: that leaves the attention implementation unset, and BART's decoder is then
    silently not causal. In the number format that the whole model is being built in, not the config's.
    """
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


def read_config(folder: Path) -> Florence2Config:
    """The native config of a Florence-2 folder in either layout."""
    config = json.loads((folder / "config.json").read_text())
    return convert_config(config) if is_original_config(config) else Florence2Config.from_pretrained(folder)


def load_original(folder: Path, config: JsonObject, dtype: torch.dtype) -> Florence2Model:
    """Load a folder in the original layout (model.safetensors or pytorch_model.bin) as Florence2Model."""
    stored = open_state_dict(folder)
    weights = {name: stored[name] for name in stored}
    model = new_florence2(convert_config(config)).to(dtype=dtype)  # type: ignore[call-arg]
    missing, unexpected = model.load_state_dict(convert_weights(weights), strict=False)
    absent = [name for name in missing if not name.endswith("embed_tokens.weight")]  # tied to `shared`
    if absent or unexpected:
        raise ValueError(f"{folder} is not an original Florence-2: missing {absent[:3]}, unexpected {unexpected[:3]}")
    return model
