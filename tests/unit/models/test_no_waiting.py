"""No forward or backward pass waits for the device: they run on `meta`, where reading a value is an error.

On a GPU a value that the host reads (`.item()`, `nonzero`, a mask as an index, a copy to the CPU) would stall every
step until all queued kernels have ended.
"""

from dataclasses import replace

import pytest
import torch

from tests.models import DECODER, new_stage1
from tests.unit.models.test_captioner import build, pair_batch
from vlv import VLVAutoEncoder
from vlv.encoders import EncoderSettings
from vlv.models.objectives import CaptionObjective, DenoisingObjective


def on_meta(batch):
    return {name: value.to("meta") if torch.is_tensor(value) else value for name, value in batch.items()}


def pixel_batch():
    return {
        "encoder_pixels": torch.zeros(2, 3, 128, 128, dtype=torch.uint8),
        "decoder_pixels": torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        "crops": torch.tensor([[64, 64, 0, 0]] * 2),
        "weights": torch.ones(2),
        "positions": [0, 1],
        "sources": torch.tensor([0, 1]),
    }


def step(objective, batch):
    """A step as the trainer takes it, up to the optimizer."""
    objective.report_sources(["first", "second"])
    objective.to("meta").train()
    batch = on_meta(batch)
    counts = objective.counts(batch)
    sum(value / counts[name] for name, value in objective(batch).items() if objective.loss_weights[name]).backward()
    trained = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
    without = {name for name, value in trained.items() if value.grad is None}
    assert all(name.endswith(".embed_tokens.weight") for name in without)  # tied elsewhere; `to("meta")` unties it


@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
def test_stage_1(tiny_components, conditioning):
    model = new_stage1(tiny_components, conditioning)
    step(DenoisingObjective(model, 0, conditioning_dropout=0.5, noise_draws=2), pixel_batch())


@pytest.mark.parametrize(("family", "conditioning"), [("xl", "text_encoder"), ("3", "text_encoder"), ("3", "clip")])
def test_stage_1_of_other_decoders(folders, tiny_components, family, conditioning):
    model = VLVAutoEncoder.from_components(
        str(folders / family),
        str(tiny_components / "florence2"),
        replace(DECODER, conditioning=conditioning),
        EncoderSettings(num_queries=12, resolution=128),
    )
    step(DenoisingObjective(model, 0), pixel_batch())


def test_stage_2_with_the_denoising_loss(tiny_components, tmp_path):
    new_stage1(tiny_components).save_pretrained(tmp_path)
    captioner = build(tmp_path, tiny_components)
    decoder = VLVAutoEncoder.from_pretrained(tmp_path).decoder
    batch = {**pair_batch(captioner, ["a red circle", "two stars"]), "sources": torch.tensor([0, 1])}
    step(CaptionObjective(captioner, 0, decoder, diffusion_weight=1.0), batch)
