"""From a folder to a decoder: the layout picks the family, the family's file builds it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import torch
from diffusers import AutoencoderKL

from vlv.checkpoints.identity import JsonObject
from vlv.decoders.interface import Conditioner, DiffusionDecoder
from vlv.decoders.latent import latent_shape
from vlv.decoders.layout import DecoderLayout, read_layout
from vlv.decoders.parts import DecoderParts
from vlv.decoders.settings import DecoderSettings
from vlv.frozen import freeze


class FamilyModule(Protocol):
    """What the file of a family has."""

    def build(self, parts: DecoderParts, conditioner: Conditioner | None) -> DiffusionDecoder:
        """The decoder; `conditioner` is one that is there already and taken as it is."""
        ...

    def load_conditioner(self, parts: DecoderParts) -> Conditioner:
        """The conditioner alone."""
        ...

    def build_conditioner(self, description: JsonObject) -> Conditioner:
        """The conditioner that its `to_dict` described."""
        ...


def build_decoder(
    folder: Path, settings: DecoderSettings, device: str | None = None, conditioner: Conditioner | None = None
) -> DiffusionDecoder:
    """The frozen decoder in a diffusers folder.

    Args:
        folder: local diffusers folder with model_index.json.
        device: None reads the weights, onto the CPU. A device reads none and makes the modules there: names and shapes
            alone on `meta`, else random weights.
        conditioner: a captioner's, that this decoder shares: its text encoders are then not loaded again.

    Raises:
        ValueError: a folder of an unknown family, one that cannot be trained on (see `DecoderLayout.check`), or
            settings that do not fit it.
    """
    layout = read_layout(folder)
    layout.check(settings)  # before a weight is read: some of what it refuses would load and generate wrong images
    return _module(layout.family.module).build(DecoderParts(layout, settings, device), conditioner)


def load_conditioner(folder: Path, settings: DecoderSettings) -> Conditioner:
    """The conditioner alone, without denoiser and VAE: what stage 2 needs. Errors as of `build_decoder`."""
    layout: DecoderLayout = read_layout(folder)
    layout.check_conditioning(settings)
    parts = DecoderParts(layout, settings)
    conditioner = _module(layout.family.module).load_conditioner(parts)
    parts.cast(conditioner)
    return conditioner


def load_vae(folder: Path, resolution: int) -> tuple[AutoencoderKL, tuple[int, int, int]]:
    """A decoder's VAE alone, frozen and in fp32, and (C, h, w) of its latents. Errors as of `build_decoder`."""
    settings = DecoderSettings(resolution=resolution)
    layout = read_layout(folder)
    layout.check(settings)
    vae = freeze(DecoderParts(layout, settings).latent_model("vae", AutoencoderKL, torch.float32))
    return vae, latent_shape(vae, resolution)


def build_conditioner(description: JsonObject) -> Conditioner:
    """The module that `Conditioner.to_dict` described, with weights still to be loaded."""
    return _module(description["family"]).build_conditioner(description)


def _module(name: str) -> FamilyModule:
    return cast(FamilyModule, import_module(f"vlv.decoders.{name}"))
