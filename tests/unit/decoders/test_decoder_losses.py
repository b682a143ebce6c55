"""The training losses of SDXL and SD 3.5 against diffusers' training examples, on the same noise and timesteps."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from tests.unit.decoders.pipelines import FULL, SHORT, encode, table_rows
from vlv.losses import LossOptions
from vlv.sampling import sample_generators


def test_xl_training_loss_is_the_examples(families):
    """As diffusers' train_text_to_image_sdxl.py has it, on the same noise, timesteps and crops."""
    decoder, pipeline = families["xl"].decoder, families["xl"].pipeline
    latents = torch.randn(3, *decoder.latent_shape)
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, range(3)))
    embeddings, end = table_rows(pipeline, [SHORT, "a boat", FULL])
    states, _, pooled, _ = encode(pipeline, [SHORT, "a boat", FULL])
    crops = torch.tensor([[1333, 800, 0, 21], [64, 64, 0, 0], [3000, 4000, 7, 0]])
    time_ids = torch.cat([torch.tensor([[*row, 64, 64]]).float() for row in crops.tolist()])
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy = noise_scheduler.add_noise(latents, sampled.noise, sampled.timesteps)
    added = {"time_ids": time_ids, "text_embeds": pooled}
    pred = pipeline.unet(noisy, sampled.timesteps, states, added_cond_kwargs=added).sample
    expected = torch.nn.functional.mse_loss(pred, sampled.noise, reduction="none").mean((1, 2, 3))
    got = decoder.denoising_loss(latents, decoder.conditioner(embeddings, end), sampled, crops)
    assert torch.allclose(got, expected, atol=1e-5)
    elsewhere = decoder.denoising_loss(latents, decoder.conditioner(embeddings, end), sampled, None)
    assert not torch.allclose(elsewhere[0], expected[0], atol=1e-5)  # size and crop act


def test_xl_sizes_stay_exact_in_bf16(families):
    decoder = families["xl"].decoder
    ids = decoder._time_ids(torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16), torch.tensor([[1333, 800, 0, 21]]))
    assert ids.tolist() == [[1333, 800, 0, 21, 64, 64]]


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("name", ["3", "3_without_t5"])
def test_sd3_training_loss_is_the_examples(families, name, precondition):
    """As diffusers' train_dreambooth_sd3.py has it, on the same noise and indices."""
    decoder, pipeline = families[name].decoder, families[name].pipeline
    latents = torch.randn(2, *decoder.latent_shape)
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, range(2)))
    embeddings, end = table_rows(pipeline, [SHORT, FULL])
    states, _, pooled, _ = encode(pipeline, [SHORT, FULL])
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    timesteps = scheduler.timesteps[sampled.timesteps]
    rows = [(scheduler.timesteps == t).nonzero().item() for t in timesteps]
    sigmas = scheduler.sigmas[rows].flatten()[:, None, None, None]
    noisy = (1.0 - sigmas) * latents + sigmas * sampled.noise
    pred = pipeline.transformer(
        hidden_states=noisy, timestep=timesteps, encoder_hidden_states=states, pooled_projections=pooled
    ).sample
    target = sampled.noise - latents
    if precondition:
        pred, target = pred * (-sigmas) + noisy, latents
    weighting = compute_loss_weighting_for_sd3("logit_normal", sigmas)
    expected = (weighting.float() * (pred.float() - target.float()) ** 2).flatten(1).mean(1)
    decoder.set_loss_options(LossOptions(precondition_outputs=precondition))
    got = decoder.denoising_loss(latents, decoder.conditioner(embeddings, end), sampled)
    decoder.set_loss_options(LossOptions())
    assert torch.allclose(got, expected, atol=1e-5)


def test_sd3_timesteps_are_logit_normal(families):
    decoder = families["3"].decoder
    got = decoder.sample_noise_and_timesteps(sample_generators(3, range(4000))).timesteps.float() / 1000
    torch.manual_seed(0)
    expected = compute_density_for_timestep_sampling("logit_normal", 4000, logit_mean=0.0, logit_std=1.0)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs(got.quantile(share) - expected.quantile(share)) < 0.03
