"""The diffusion decoders: one interface, one file a family, and the table that picks the family.

To add a family: write its file with `load_decoder`, `load_skeleton`, `load_conditioner`, `build_conditioner`, and
enter it in `_FAMILIES` under its diffusers pipeline class.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vlv.decoders.interface import Conditioner, Conditioning, DiffusionDecoder, EmbeddingSpace, NoiseAndTimesteps

__all__ = [
    "Conditioner",
    "Conditioning",
    "DiffusionDecoder",
    "EmbeddingSpace",
    "NoiseAndTimesteps",
    "build_conditioner",
    "load_conditioner",
    "load_decoder",
    "load_skeleton",
]

_FAMILIES = {
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl",
    "StableDiffusion3Pipeline": "stable_diffusion_3",
}


def load_decoder(folder: Path, conditioning: str, resolution: int, t5_dtype: str | None = None) -> DiffusionDecoder:
    """The frozen decoder in a diffusers folder, in fp32 on the CPU.

    Args:
        folder: local diffusers folder with model_index.json.
        conditioning: text_encoder (through the frozen text encoders) or direct (into cross-attention).
        resolution: side of the images in pixels.
        t5_dtype: bf16 or int8 keep the T5 of Stable Diffusion 3.5 in that; None is as the other frozen weights.

    Raises:
        ValueError: a folder of an unknown family, parts that do not fit together, or a `t5_dtype` that nothing has.
    """
    family = _family(folder)
    if t5_dtype is None:
        return family.load_decoder(folder, conditioning, resolution)
    if not hasattr(family, "T5_DTYPES") or conditioning != "text_encoder":
        raise ValueError(f"t5_dtype={t5_dtype}: no T5 with this decoder and conditioning={conditioning}; set null")
    return family.load_decoder(folder, conditioning, resolution, t5_dtype)


def load_skeleton(folder: Path, conditioning: str, resolution: int, device: str = "meta") -> DiffusionDecoder:
    """The decoder without its weights: names and shapes alone, or random ones on another device than meta."""
    return _family(folder).load_skeleton(folder, conditioning, resolution, device)


def load_conditioner(folder: Path, conditioning: str, dtype: torch.dtype) -> Conditioner:
    """The conditioner alone, without denoiser and VAE: what stage 2 needs."""
    return _family(folder).load_conditioner(folder, conditioning, dtype)


def build_conditioner(description: dict[str, Any]) -> Conditioner:
    """The module that `Conditioner.to_dict` described, with weights still to be loaded."""
    return import_module(f"vlv.decoders.{description['family']}").build_conditioner(description)


def _family(folder: Path) -> ModuleType:
    index = folder / "model_index.json"
    if index.is_file():
        pipeline = json.loads(index.read_text()).get("_class_name")
    elif (folder / "unet").is_dir() and not (folder / "text_encoder_2").exists():
        pipeline = "StableDiffusionPipeline"  # single components without an index
    else:
        raise ValueError(f"{folder} has no model_index.json: give a diffusers folder of a text-to-image model")
    if pipeline not in _FAMILIES:
        raise ValueError(f"{folder} is a {pipeline}; the decoders here are {', '.join(_FAMILIES)}")
    return import_module(f"vlv.decoders.{_FAMILIES[pipeline]}")
