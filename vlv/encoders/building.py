"""From a folder to a vision encoder: the layout picks the kind, its file builds it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from transformers import PreTrainedConfig

from vlv.checkpoints.identity import ENCODER_TYPE, CheckpointError
from vlv.decoders.settings import EmbeddingSpace
from vlv.encoders.interface import VisionEncoder
from vlv.encoders.layout import EncoderLayout, read_encoder_layout
from vlv.encoders.settings import EncoderSettings


class EncoderModule(Protocol):
    """What the file of an encoder has."""

    def build(
        self, layout: EncoderLayout, spaces: Sequence[EmbeddingSpace], settings: EncoderSettings
    ) -> VisionEncoder:
        """A new encoder on pretrained weights."""
        ...


# Module and class of each encoder that a captioner may hold, by the `model_type` of its own config.
_CLASSES = {ENCODER_TYPE: ("florence2", "VLVEncoder")}


def encoder_from_config(config: PreTrainedConfig) -> VisionEncoder:
    """An encoder as a captioner's config describes it, its weights still to be loaded.

    Raises:
        CheckpointError: a config of a kind that is not here.
    """
    if config.model_type not in _CLASSES:
        raise CheckpointError(f"encoder_config is of type {config.model_type}: the encoders are {', '.join(_CLASSES)}")
    module, name = _CLASSES[config.model_type]
    return getattr(import_module(f"vlv.encoders.{module}"), name)(config)


def build_encoder(folder: Path, spaces: Sequence[EmbeddingSpace], settings: EncoderSettings) -> VisionEncoder:
    """A new encoder on pretrained weights, in fp32 on the CPU: queries and heads are random, from torch's seed.

    Args:
        folder: the pretrained base.
        spaces: that the decoder wants (`Conditioner.spaces`).

    Raises:
        ValueError: no encoder of a kind that is here, or settings that do not fit it.
    """
    layout = read_encoder_layout(folder)
    module = cast(EncoderModule, import_module(f"vlv.encoders.{layout.module}"))
    encoder = module.build(layout, spaces, settings)
    encoder.set_trained(settings.trained)
    return encoder
