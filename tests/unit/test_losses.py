import dataclasses
import math
import types

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from vlv.config import Stage1Config
from vlv.decoders.stable_diffusion_3 import StableDiffusion3Decoder
from vlv.decoders.unet import UNetDecoder
from vlv.losses import IGNORED, LossOptions, caption_loss, diffusion_loss, min_snr_weights, weighted_sum


def test_diffusion_loss_by_hand():
    pred, target = torch.zeros(2, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]], [[[0.0, 2.0]]]])
    assert diffusion_loss(pred, target).tolist() == [5.0, 2.0]


def test_caption_loss_by_hand():
    logits = torch.zeros(2, 3, 4)  # uniform: each counted token costs log 4
    labels = torch.tensor([[1, IGNORED, 2], [IGNORED, IGNORED, 3]])
    losses = caption_loss(logits, labels).tolist()
    assert losses == pytest.approx([2 * math.log(4), math.log(4)], rel=1e-6)


def test_caption_loss_of_no_token_is_zero():
    assert caption_loss(torch.randn(1, 2, 4), torch.full((1, 2), IGNORED)).item() == 0.0


def test_weight_zero_leaves_out_even_nan_and_its_gradient():
    values = torch.tensor([2.0, float("nan")], requires_grad=True)
    total = weighted_sum(values, torch.tensor([1.0, 0.0]))
    total.backward()
    assert total.item() == 2.0
    assert values.grad.tolist() == [1.0, 0.0]


def test_min_snr_weights_by_hand():
    signal = torch.tensor([0.5, 0.9, 0.99])  # signal-to-noise ratios 1, 9, 99
    epsilon = min_snr_weights(signal, gamma=5.0, velocity=False)
    assert torch.allclose(epsilon, torch.tensor([1.0, 5 / 9, 5 / 99]), atol=1e-4)
    velocity = min_snr_weights(signal, gamma=5.0, velocity=True)
    assert torch.allclose(velocity, torch.tensor([1 / 2, 5 / 10, 5 / 100]), atol=1e-4)


def test_min_snr_weights_are_those_of_diffusers():
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    timesteps = torch.arange(1000)
    snr = compute_snr(scheduler, timesteps)
    base = torch.stack([snr, 5.0 * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]  # as its training scripts have it
    signal = scheduler.alphas_cumprod[timesteps]
    assert torch.allclose(min_snr_weights(signal, 5.0, velocity=False), base / snr, rtol=1e-4)
    assert torch.allclose(min_snr_weights(signal, 5.0, velocity=True), base / (snr + 1), rtol=1e-4)


def test_a_loss_option_is_a_field_a_setting_and_its_use_in_a_decoder():
    """Four files, that of the family's layout too: no recipe, interface or launcher names an option."""
    settings = {item.name: item.default for item in dataclasses.fields(Stage1Config)}
    supported = UNetDecoder.supported_loss_options | StableDiffusion3Decoder.supported_loss_options
    for option in dataclasses.fields(LossOptions):
        assert settings[option.name] == option.default
        assert option.name in supported

    @dataclasses.dataclass(frozen=True)
    class MoreOptions(LossOptions):
        huber_delta: float | None = None

    config = types.SimpleNamespace(**settings, huber_delta=0.1)
    options = MoreOptions.of(config)
    assert options == MoreOptions(huber_delta=0.1)
    options.require_supported(frozenset({"huber_delta"}))
    with pytest.raises(
        ValueError, match=r"huber_delta=0.1 does not fit .*supports min_snr_gamma.*leave huber_delta=null"
    ):
        options.require_supported(frozenset({"min_snr_gamma"}))
