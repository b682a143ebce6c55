"""The real sizes, without weights: built from the published configs on the meta device."""

from pathlib import Path

import pytest
import torch
from transformers import Florence2Config, Qwen2Config

from vlv.models.decoders import load_skeleton
from vlv.models.encoder import VLVEncoder, VLVEncoderConfig
from vlv.models.projector import Projector

COMPONENTS = Path(__file__).resolve().parents[3] / "configs" / "components"


@pytest.fixture(scope="module")
def encoder():
    """Florence-2-large with 77 queries into Stable Diffusion 2.1's text width."""
    text = {"model_type": "bart", "vocab_size": 51289, "d_model": 1024, "max_position_embeddings": 4096}
    text |= {"encoder_layers": 12, "decoder_layers": 12, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096}
    text |= {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
    vision = {"embed_dim": [256, 512, 1024, 2048], "depths": [1, 1, 9, 1], "projection_dim": 1024}
    vision |= {"num_heads": [8, 16, 32, 64], "num_groups": [8, 16, 32, 64]}
    config = VLVEncoderConfig(
        florence2_config=Florence2Config(text_config=text, vision_config=vision).to_dict(),
        spaces={"clip": 1024},
        num_queries=77,
        prompt_ids=[0, 47066, 21700, 19, 10, 17818, 99, 16, 2343, 11, 5, 2274, 4, 2],
    )
    with torch.device("meta"):
        return VLVEncoder(config)


def trained(module):
    return sum(value.numel() for value in module.parameters() if value.requires_grad)


def test_stage1_trains_the_published_number_of_parameters(encoder):
    encoder.set_trained("language_model")
    assert trained(encoder) == 415_809_536


def test_shapes_at_768_pixels(encoder):
    with torch.device("meta"):
        features = encoder.image_features(torch.zeros(1, 3, 768, 768, dtype=torch.uint8))
        assert features.shape == (1, 577, 1024)
        assert encoder.encode(features).shape == (1, 591, 1024)


def test_projector_for_qwen_3b(encoder):
    width = Qwen2Config(hidden_size=2048).hidden_size
    assert trained(Projector(1024, width)) == 6_295_552


@pytest.mark.parametrize(
    ("name", "denoiser"),
    [
        ("stable-diffusion-v1-5", 859_520_964),
        ("stable-diffusion-2-1", 865_910_724),
        ("stable-diffusion-xl-base-1.0", 2_567_463_684),
        ("stable-diffusion-3.5-medium", 2_243_171_520),
        ("stable-diffusion-3.5-large", 8_056_627_520),
    ],
)
def test_each_decoder_has_the_published_size(name, denoiser):
    decoder = load_skeleton(COMPONENTS / name, "text_encoder", 384)
    part = decoder.transformer if "-3.5" in name else decoder.unet
    assert sum(value.numel() for value in part.parameters()) == denoiser
