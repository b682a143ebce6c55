"""Whether the sizes of a call fit the components: read from their configs alone, no weights.

What a config does not say is left to the models, which check the same on what they have loaded. Components
that have to be fetched from a hub first are left to them too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlv.checkpoints.identity import read_json
from vlv.config import ConfigError, Stage1Config
from vlv.limits import T5_ROWS, check_decoder_resolution, check_encoder_resolution, check_queries


def check_stage1_sizes(config: Stage1Config) -> None:
    """Check queries, resolutions and the steps of validation pictures.

    Raises:
        ValueError: one that the components cannot take; names the largest or nearest that they can.
    """
    decoder, florence2 = Path(config.stable_diffusion_model_path), Path(config.florence2_model_path)
    vision, text = (_config(florence2).get(key, {}) for key in ("vision_config", "text_config"))
    lengths = [_config(folder).get("max_position_embeddings") for folder in decoder.glob("text_encoder*")]
    if config.conditioning == "direct" and (decoder / "transformer").is_dir():
        lengths = [length and length + T5_ROWS for length in lengths]  # its states are one space, T5's rows included
    known = [length for length in (*lengths, text.get("max_position_embeddings")) if length is not None]
    if known:
        check_queries(config.num_queries, known)
    depths = [len(_config(decoder / part).get("block_out_channels", ())) for part in ("vae", "unet")]
    patch = _config(decoder / "transformer").get("patch_size", 1)
    check_decoder_resolution(config.decoder_resolution, patch * 2 ** sum(max(0, depth - 1) for depth in depths))
    original = vision.get("image_pos_embed", {}).get("max_pos_embeddings")  # of the layout before transformers' own
    largest = vision.get("max_position_embeddings", original)
    if largest is not None and "max_position_embeddings" in text:
        # The prompt's tokens come on top; they are known once the tokenizer is loaded.
        stride, positions = vision["patch_stride"], text["max_position_embeddings"]
        check_encoder_resolution(config.encoder_resolution, stride, largest, positions, num_prompt_ids=0)
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


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}
