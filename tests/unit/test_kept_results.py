"""Results of frozen parts that are kept in memory."""

import pytest
import torch

from tests.models import new_stage1
from vlv.kept_results import KeptResults
from vlv.models.objectives import DenoisingObjective


def pictures(*shades):
    return torch.stack([torch.full((3, 2, 2), shade, dtype=torch.uint8) for shade in shades])


def test_each_picture_is_computed_once_up_to_the_limit():
    asked = []

    def compute(pixels):
        asked.append(pixels[:, 0, 0, 0].tolist())
        return pixels[:, 0].float() * 2

    keep = KeptResults(2)
    for shades in ((1, 2, 1), (2, 3), (3, 1)):
        assert torch.equal(keep(pictures(*shades), compute), compute(pictures(*shades)))
    assert asked[::2] == [[1, 2, 1], [3], [3]]  # 3 is beyond the limit


def test_a_training_step_has_the_same_loss(tiny_components):
    stream = torch.Generator().manual_seed(0)
    batch = {
        "encoder_pixels": torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=stream),
        "decoder_pixels": torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=stream),
        "weights": torch.ones(3),
        "positions": [0, 1, 2],
    }
    model = new_stage1(tiny_components)
    objective = DenoisingObjective(model, seed=0).eval()
    plain = objective(batch)["diffusion"]
    model.encoder.kept_results, model.decoder.kept_results = KeptResults(10), KeptResults(10)
    for _ in range(2):  # the second step computes nothing anew
        assert objective(batch)["diffusion"].item() == pytest.approx(plain.item(), rel=1e-6)
    objective(batch)["diffusion"].backward()
    assert model.encoder.query_embed.grad.abs().sum() > 0
