"""Whether the sizes of a call fit the components: read from their configs alone, no weights.

What a config does not say is left to the models, which check the same on what they have loaded. Components
that have to be fetched from a hub first are left to them too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vlv.config import ConfigError, Stage1Config
from vlv.identity import read_json


def check_stage1_sizes(config: Stage1Config) -> None:
    """Check queries, resolutions and the steps of validation pictures.

    Raises:
        ConfigError: one that the components cannot take; names the largest or nearest that they can.
    """
    decoder, florence2 = Path(config.stable_diffusion_model_path), Path(config.florence2_model_path)
    vision, text = (_config(florence2).get(key, {}) for key in ("vision_config", "text_config"))
    lengths = [_config(folder).get("max_position_embeddings") for folder in decoder.glob("text_encoder*")]
    _check_queries(config.num_queries, [*lengths, text.get("max_position_embeddings")])
    _check_decoder_resolution(config.decoder_resolution, decoder)
    _check_encoder_resolution(config.encoder_resolution, vision, text)
    if config.val_pictures:
        check_inference_steps("val_inference_steps", config.val_inference_steps, decoder)


def check_inference_steps(option: str, steps: int, decoder: Path) -> None:
    """Check that a scheduler has as many steps as are to be taken.

    Raises:
        ConfigError: it has not.
    """
    scheduler = decoder / "scheduler" / "scheduler_config.json"
    most = read_json(scheduler).get("num_train_timesteps") if scheduler.is_file() else None
    if most is not None and steps > most:
        raise ConfigError(f"{option}={steps} is more than the {most} steps of {decoder}: give at most {most}")


def _check_queries(num_queries: int, lengths: list[int | None]) -> None:
    known = [length for length in lengths if length is not None]
    if known and num_queries > min(known):
        raise ConfigError(f"num_queries={num_queries} cannot be used: give 1 to {min(known)}, the text encoder's limit")


def _check_decoder_resolution(resolution: int, decoder: Path) -> None:
    depths = [len(_config(decoder / part).get("block_out_channels", ())) for part in ("vae", "unet")]
    multiple = 2 ** sum(max(0, depth - 1) for depth in depths)
    if resolution % multiple:
        nearest = max(multiple, round(resolution / multiple) * multiple)
        raise ConfigError(f"decoder_resolution={resolution} is no multiple of {multiple}: give {nearest}")


def _check_encoder_resolution(resolution: int, vision: dict[str, Any], text: dict[str, Any]) -> None:
    stride = math.prod(vision.get("patch_stride", ()))
    original = vision.get("image_pos_embed", {}).get("max_pos_embeddings")  # of the layout before transformers' own
    largest = vision.get("max_position_embeddings", original)
    if "max_position_embeddings" in text and largest is not None:
        # One token a cell, and one for their mean; the prompt's come on top.
        largest = min(largest, math.isqrt(text["max_position_embeddings"] - 1))
    if largest is not None and math.ceil(resolution / stride) > largest:
        side = math.ceil(resolution / stride)
        raise ConfigError(
            f"encoder_resolution={resolution} gives {side} x {side} image tokens, more than this Florence-2 has "
            f"positions for: give at most {largest * stride}"
        )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}
