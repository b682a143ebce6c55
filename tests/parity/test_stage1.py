"""Stage 1, step by step, against what the published implementation computed."""

import hashlib

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from vlv import VLVAutoEncoder
from vlv.decoders import Conditioning, NoiseAndTimesteps
from vlv.encoders.florence2 import VLVEncoderConfig
from vlv.models import VLVImageProcessor

ACTIVATIONS, LOSSES, GENERATION, GUIDANCE = 5e-5, 1e-5, 1e-4, 2.0
INITIAL = "gen.initial_latents_seed99"


@pytest.fixture(scope="module")
def model(imported_stage1):
    return VLVAutoEncoder.from_pretrained(imported_stage1)


@pytest.fixture(scope="module")
def pixels(model, values1):
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in values1["image_uint8"]]
    return model.image_processor.batch(images)


@pytest.fixture(scope="module")
def sampled(values1):
    return NoiseAndTimesteps(values1["vae.posterior_eps"], values1["unet.timesteps"], values1["noise"])


def distance(got, expected):
    assert got.shape == expected.shape
    return (got - expected).abs().max().item()


def test_pixel_values_are_exact(model, pixels, values1, facts):
    assert torch.equal(pixels["decoder_pixels"], values1["image_uint8"])
    values = model.encoder.normalize(pixels["encoder_pixels"])
    assert torch.equal(values[:, :, ::4], values1["processor.pixel_values_rows"])  # every fourth row was kept
    assert hashlib.sha256(values.numpy().tobytes()).hexdigest() == facts["pixel_values_sha256"]  # and the hash of all


def test_real_scale_pixels_are_exact(more):
    """The corner of 384 -> 768: twice the size, so it depends on the corner alone."""
    corner = Image.fromarray(more["real_scale.corner48_uint8"].permute(1, 2, 0).numpy())
    values = normalized(VLVImageProcessor(48, 96)(corner)["encoder_pixels"])
    assert torch.equal(values[None, :, :64, :64], more["real_scale.pixel_values_corner64"])


def test_real_scale_pixels_are_the_clip_processors():
    """A second route at the real sizes: transformers' processor on Pillow, which the published code calls."""
    noise = torch.randint(0, 256, (384, 384, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.numpy())
    processor = CLIPImageProcessorPil(
        size={"height": 768, "width": 768},
        do_center_crop=False,
        image_mean=VLVEncoderConfig.image_mean,
        image_std=VLVEncoderConfig.image_std,
    )
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert distance(normalized(VLVImageProcessor(384, 768)(image)["encoder_pixels"]), expected) < 1e-6


def normalized(encoder_pixels):
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (VLVEncoderConfig.image_mean, VLVEncoderConfig.image_std)
    )
    return (encoder_pixels.float() / 255 - mean) / std


def test_every_step_of_the_encoder(model, pixels, values1, more):
    features = model.encoder.image_features(pixels["encoder_pixels"])
    assert distance(features, values1["image_features"]) < ACTIVATIONS
    encoder, inputs = model.encoder.florence2.language_model.encoder, []
    hook = encoder.register_forward_pre_hook(lambda *given: inputs.append(given[2]["inputs_embeds"]), with_kwargs=True)
    states = model.encoder.encode(features)
    hook.remove()
    assert distance(inputs[0], more["merged_inputs_embeds"]) < ACTIVATIONS
    assert distance(states, values1["encoder_last_hidden_state"]) < ACTIVATIONS
    assert distance(model.encoder.read_queries(states), values1["last_decoder_hidden_state"]) < ACTIVATIONS
    embeddings = model.encoder(pixels["encoder_pixels"])
    assert distance(embeddings["clip"], values1["conditional_context"]) < ACTIVATIONS
    conditioning = model.decoder.conditioner(embeddings)
    assert distance(conditioning.states, values1["text_encoder_last_hidden_state"]) < ACTIVATIONS


def test_latents_noise_and_prediction(model, pixels, sampled, values1, more):
    latents = model.decoder.encode_images(pixels["decoder_pixels"], sampled.posterior_noise)
    scale = model.decoder.vae.config.scaling_factor
    assert distance(latents / scale, values1["vae.x0_sample"]) < ACTIVATIONS
    posterior = model.decoder.vae.encode(2 * pixels["decoder_pixels"].float() / 255 - 1).latent_dist
    assert distance(posterior.mean, more["vae.posterior_mean"]) < ACTIVATIONS
    assert distance(posterior.logvar, more["vae.posterior_logvar"]) < ACTIVATIONS
    noisy = model.decoder.noise_scheduler.add_noise(latents, sampled.noise, sampled.timesteps)
    assert distance(noisy, values1["unet.noised_latent"]) < ACTIVATIONS
    states = Conditioning(values1["text_encoder_last_hidden_state"])
    assert distance(model.decoder.predict(noisy, sampled.timesteps, states, None), values1["pred_noise"]) < ACTIVATIONS


def test_losses(model, pixels, sampled, values1):
    loss = model(pixels["encoder_pixels"], pixels["decoder_pixels"], sampled).mean()
    assert abs(loss.item() - values1["loss"].item()) < LOSSES
    assert abs(loss.item() - 1.277474) < LOSSES
    latents = model.decoder.encode_images(pixels["decoder_pixels"], sampled.posterior_noise)
    noisy = model.decoder.noise_scheduler.add_noise(latents, sampled.noise, sampled.timesteps)
    ours = model.decoder.predict(noisy, sampled.timesteps, model.embed(pixels["encoder_pixels"]), None)
    l1 = (ours - sampled.noise).abs().mean()
    assert abs(l1.item() - values1["loss_l1"].item()) < LOSSES
    assert abs(l1.item() - 0.900606) < LOSSES


def test_loss_without_the_text_encoder(model, pixels, sampled, values1):
    latents = model.decoder.encode_images(pixels["decoder_pixels"], sampled.posterior_noise)
    direct = Conditioning(model.encoder(pixels["encoder_pixels"])["clip"])
    loss = model.decoder.denoising_loss(latents, direct, sampled).mean()
    assert abs(loss.item() - values1["loss_no_text_encoder"].item()) < LOSSES


def test_gradients(model, pixels, sampled, values1):
    model.zero_grad()
    model(pixels["encoder_pixels"], pixels["decoder_pixels"], sampled).mean().backward()
    for got, name in (
        (model.encoder.query_embed.grad, "grad.query_embed"),
        (model.encoder.language_proj["clip"][2].bias.grad, "grad.language_proj.2.bias"),
    ):
        assert distance(got, values1[name]) / values1[name].abs().max() < LOSSES


def test_unconditional_states(model, values1):
    assert distance(model.decoder.unconditional_states, values1["gen.uncond_embeds"]) < ACTIVATIONS


def test_guided_generation(model, pixels, values1, monkeypatch):
    """`generate_images` with the published initial latents and the published noise at each step."""
    noises = iter(values1["gen.step_noises_seed99"])
    decoded = []

    def noise_of_the_step(shape, **_):
        return next(noises, torch.zeros(shape))  # the last step's was not kept: its variance is 1e-20

    def decode(latents):
        decoded.append(vae_decode(latents))
        return decoded[0]

    vae_decode = model.decoder.vae.decode
    monkeypatch.setattr("vlv.decoders.latent.sample_noise", lambda *_: values1[INITIAL])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", noise_of_the_step)
    monkeypatch.setattr(model.decoder.vae, "decode", decode)
    images = model.reconstruct_pixels(
        pixels["encoder_pixels"],
        guidance_scale=GUIDANCE,
        num_inference_steps=4,
        generators=[torch.Generator() for _ in range(2)],
    )
    assert next(noises, None) is None
    expected = values1["gen.decoded_seed99"]
    assert distance(decoded[0].sample, expected) < GENERATION
    rounded = ((expected / 2 + 0.5).clamp(0, 1) * 255).round()
    assert (images.float() - rounded).abs().max() <= 1
    assert (images.float() == rounded).float().mean() > 0.99
