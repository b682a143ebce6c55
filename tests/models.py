"""Tiny stage-1 models and captioners on the tiny components, as many tests start from."""

from dataclasses import replace

import torch

from vlv import VLVAutoEncoder
from vlv.decoders import DecoderSettings
from vlv.encoders import EncoderSettings
from vlv.models.from_stage1 import CaptionerSettings, captioner_from_stage1

DECODER = DecoderSettings(resolution=64)
ENCODER = EncoderSettings(num_queries=12, resolution=128)
CAPTIONER = CaptionerSettings(trained=["mlp"], max_caption_tokens=32)


def new_stage1(components, conditioning="text_encoder", **encoder):
    """A stage 1 of new queries and heads on a folder of tiny components; `encoder` changes `EncoderSettings`."""
    return VLVAutoEncoder.from_components(
        str(components / "stable-diffusion"),
        str(components / "florence2"),
        replace(DECODER, conditioning=conditioning),
        replace(ENCODER, **encoder),
    )


def new_captioner(stage1, language_model, **changes):
    """A captioner on a saved stage 1; `changes` are of `CaptionerSettings`."""
    return captioner_from_stage1(stage1, str(language_model), replace(CAPTIONER, **changes))


def write_captioner(components, folder):
    """A captioner of tiny components with random weights, saved below a folder beside its stage 1; returns its own."""
    torch.manual_seed(0)
    new_stage1(components).save_pretrained(folder / "stage1")
    captioner = new_captioner(folder / "stage1", components / "qwen", trained=["mlp", "llm"])
    captioner.save_pretrained(folder / "captioner")
    return folder / "captioner"
