"""The real sizes, without weights: built from the published configs on the meta device."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Florence2Config, Qwen2Config

from scripts import plan_decoders
from vlv.decoders import DecoderSettings, build_decoder
from vlv.encoders.florence2 import VLVEncoder, VLVEncoderConfig
from vlv.models.projector import Projector
from vlv.planning import decoders, meta_step

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
        return VLVEncoder(config).eval()  # training, transformers 5.6 asks BART's dropout of layers for a value


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
        ("stable-diffusion-2-1-base", 865_910_724),
        ("stable-diffusion-2-1", 865_910_724),
        ("stable-diffusion-xl-base-1.0", 2_567_463_684),
        ("stable-diffusion-3.5-medium", 2_243_171_520),
        ("stable-diffusion-3.5-large", 8_056_627_520),
    ],
)
def test_each_decoder_has_the_published_size(name, denoiser):
    decoder = build_decoder(COMPONENTS / name, DecoderSettings(resolution=384), device="meta")
    part = decoder.transformer if "-3.5" in name else decoder.unet
    assert sum(value.numel() for value in part.parameters()) == denoiser


@pytest.mark.parametrize(
    ("name", "encoders"),
    [
        ("stable-diffusion-v1-5", {"text": 123_060_480}),
        ("stable-diffusion-2-1-base", {"text": 340_387_840}),
        ("stable-diffusion-xl-base-1.0", {"clip_l": 123_060_480, "clip_g": 694_659_840}),
        ("stable-diffusion-3.5-large", {"clip_l": 123_650_304, "clip_g": 694_659_840, "t5": 4_762_310_656}),
    ],
)
def test_each_text_encoder_has_the_published_size(name, encoders):
    conditioner = build_decoder(COMPONENTS / name, DecoderSettings(resolution=384), device="meta").conditioner
    sizes = {key: sum(value.numel() for value in part.parameters()) for key, part in conditioner.named_children()}
    assert sizes == encoders


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable-diffusion-2-1-base", "stable-diffusion-3.5-medium"])
def test_the_plan_in_the_docs_is_what_the_command_prints(name, capsys):
    plan_decoders.main([f"decoder={name}"])
    rows = capsys.readouterr().out.splitlines()[2:]
    documented = (COMPONENTS.parents[1] / "docs" / "decoders.md").read_text().splitlines()
    assert len(rows) == (3 if "3.5" in name else 2)
    assert set(rows) <= set(documented)


def test_activations_that_are_computed_again_cost_less_and_attention_keeps_no_square():
    sizes = {}
    for resolution in (256, 512):
        config = decoders.PlanConfig(resolution=resolution)
        model = decoders.build(COMPONENTS / "stable-diffusion-3.5-medium", "direct", config)
        model.encoder = Nothing(model.encoder.config.spaces)
        model.decoder.encode_images = lambda pixels, noise: torch.zeros_like(noise)  # whose peak is another
        model.set_dtypes(torch.bfloat16, torch.float32)
        loss = partial(meta_step.loss_of, model, 1)
        whole = meta_step.peak_gib(model, loss)
        meta_step.enable_checkpointing(model.decoder)
        sizes[resolution] = whole, meta_step.peak_gib(model, loss)
    assert all(again < whole / 5 for whole, again in sizes.values())
    assert sizes[512][0] < 4.2 * sizes[256][0]  # linear in the pixels; a matrix for each head would grow 16-fold


def test_the_memory_of_a_step_is_what_its_layers_keep_in_autocasts_dtypes():
    side, batch = 256, 8

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = torch.nn.Linear(side, side, bias=False), torch.nn.LayerNorm(side)
            self.second = torch.nn.Linear(side, side, bias=False)

        def forward(self, rows):
            return self.second(self.norm(self.first(rows)))

    with torch.device("meta"):
        layers = Layers()
        rows = torch.zeros(batch, side)
    for value in layers.parameters():
        value.grad = torch.zeros_like(value)
    with meta_step.LiveBytes(layers) as live, meta_step.Autocast():
        result = layers(rows)
    one = batch * side
    assert result.dtype == torch.bfloat16
    # Kept: the rows in bf16 for the first weight's gradient; the first's result in fp32 for the norm with its two
    # statistics; the norm's and the second weight in bf16. Alive: the second's result.
    kept = 2 * one + 4 * one + 2 * 4 * batch + 2 * one + 2 * side * side
    assert live.now == kept + 2 * one
    del result
    assert live.now == 0


class Nothing(torch.nn.Module):
    """In place of the encoder: embeddings from nowhere."""

    def __init__(self, spaces):
        super().__init__()
        widths = {name: torch.zeros(1, 77, width, device="meta") for name, width in spaces.items()}
        self.rows = torch.nn.ParameterDict(widths)

    def forward(self, pixels, *_):
        return {name: row.expand(len(pixels), -1, -1) for name, row in self.rows.items()}
