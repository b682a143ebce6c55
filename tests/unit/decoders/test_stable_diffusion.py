"""The decoder against diffusers' own pipeline: the token embeddings of a prompt, given as z, must do the same."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from tests.unit.decoders.pipelines import overfit
from vlv.decoders import DecoderSettings, NoiseAndTimesteps, build_conditioner, build_decoder, load_conditioner
from vlv.decoders.clip import TextConditioner
from vlv.frozen import is_frozen
from vlv.sampling import sample_generators, sample_noise
from vlv.testing.components import SENTENCES, write_stable_diffusion

PROMPT = "a red house beside the sea"
FULL = " ".join(SENTENCES * 3)  # more than 77 tokens: fills every row, the last one with EOS


@pytest.fixture(scope="module", params=["1.5", "2.1"])
def folder(request, tiny_components, tmp_path_factory):
    if request.param == "2.1":
        return tiny_components / "stable-diffusion"
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("first") / "stable-diffusion-1.5"
    write_stable_diffusion(folder, list(SENTENCES), first=True)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return build_decoder(folder, DecoderSettings(resolution=64))


@pytest.fixture(scope="module")
def prompt_embeddings(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    ids = tokenizer(PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return ids, text_encoder.embeddings.token_embedding(ids).detach()


def test_conditioner_on_token_embeddings_is_the_text_encoder(folder, decoder, prompt_embeddings):
    ids, embeddings = prompt_embeddings
    expected = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").eval()(ids).last_hidden_state
    states = decoder.conditioner({"clip": embeddings}).states
    assert torch.allclose(states, expected, atol=1e-5)


def test_eager_attention_gives_the_same(folder, decoder, prompt_embeddings):
    _, embeddings = prompt_embeddings
    eager = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", attn_implementation="eager")
    states = TextConditioner(eager)(embeddings)
    assert torch.allclose(states, decoder.conditioner({"clip": embeddings}).states, atol=1e-5)


def test_conditioner_is_causal(decoder):
    embeddings = torch.randn(1, 9, decoder.conditioner.width)
    changed = embeddings.clone()
    changed[:, 5:] = torch.randn(1, 4, decoder.conditioner.width)
    before = decoder.conditioner({"clip": embeddings}).states
    after = decoder.conditioner({"clip": changed}).states
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.fixture(scope="module")
def pipeline(folder):
    made = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    made.set_progress_bar_config(disable=True)
    return made


def rows_of(folder, prompts):
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    table = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").embeddings.token_embedding
    ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return ids, table(ids).detach()


def test_the_conditioning_is_the_pipelines(folder, decoder, pipeline):
    ids, embeddings = rows_of(folder, [PROMPT, FULL])
    ends = (ids == ids[0, -1]).int().argmax(1)
    assert ends[0] < 20
    assert ends[1] == 76  # every row is filled
    states, empty = pipeline.encode_prompt([PROMPT, FULL], "cpu", 1, True)
    got = decoder.conditioner({"clip": embeddings})
    assert torch.allclose(got.states, states, atol=1e-5)
    assert torch.allclose(decoder.unconditional(got).states, empty, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "euler", "dpm++"])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_the_pipelines(
    folder, decoder, pipeline, drawn_exactly, prediction_type, scheduler, guidance_scale, batch
):
    decoder.noise_scheduler.register_to_config(prediction_type=prediction_type)
    pipeline.scheduler = decoder.schedulers[scheduler].from_config(
        pipeline.scheduler.config, prediction_type=prediction_type
    )
    prompts, seeds = [PROMPT, "a boat", FULL][:batch], range(3, 3 + batch)
    generators = sample_generators(0, seeds)
    noise = sample_noise(decoder.latent_shape, generators)  # what the decoder draws first
    expected = pipeline(
        prompts,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        generator=generators,
        output_type="pt",
    ).images
    drawn = drawn_exactly(
        decoder,
        decoder.conditioner({"clip": rows_of(folder, prompts)[1]}),
        guidance_scale=guidance_scale,
        num_inference_steps=4,
        generators=sample_generators(0, seeds),
        scheduler=scheduler,
    )
    decoder.noise_scheduler.register_to_config(prediction_type="epsilon")
    assert torch.allclose(drawn, expected, atol=1e-4)


def test_epsilon_loss_by_hand(decoder):
    decoder.noise_scheduler.register_to_config(prediction_type="epsilon")
    latents = torch.randn(2, *decoder.latent_shape)
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, [0, 1]))
    states = torch.randn(2, 5, decoder.conditioner.width)
    signal = decoder.noise_scheduler.alphas_cumprod[sampled.timesteps][:, None, None, None]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * sampled.noise
    pred = decoder.unet(noisy, sampled.timesteps, states).sample
    expected = (pred - sampled.noise).pow(2).mean((1, 2, 3))
    conditioning = decoder.conditioner({"clip": states})._replace(states=states)
    assert torch.allclose(decoder.denoising_loss(latents, conditioning, sampled), expected, atol=1e-5)


def test_velocity_loss_by_hand(decoder):
    decoder.noise_scheduler.register_to_config(prediction_type="v_prediction")
    latents = torch.randn(1, *decoder.latent_shape)
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, [0]))
    conditioning = decoder.conditioner({"clip": torch.randn(1, 5, decoder.conditioner.width)})
    signal = decoder.noise_scheduler.alphas_cumprod[sampled.timesteps][:, None, None, None]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * sampled.noise
    target = signal.sqrt() * sampled.noise - (1 - signal).sqrt() * latents
    pred = decoder.unet(noisy, sampled.timesteps, conditioning.states).sample
    expected = (pred - target).pow(2).mean((1, 2, 3))
    assert torch.allclose(decoder.denoising_loss(latents, conditioning, sampled), expected, atol=1e-5)
    decoder.noise_scheduler.register_to_config(prediction_type="epsilon")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_few_pictures_can_be_overfitted(decoder, prediction_type):
    decoder.noise_scheduler.register_to_config(prediction_type=prediction_type)
    losses = overfit(decoder)
    decoder.noise_scheduler.register_to_config(prediction_type="epsilon")
    assert losses[-1] < losses[0] - 1e-3


def test_latents_are_scaled_by_the_configs(decoder):
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    posterior = decoder.vae.encode(2 * pixels.float() / 255 - 1).latent_dist
    got = decoder.encode_images(pixels, torch.zeros(1, *decoder.latent_shape))
    assert torch.allclose(got, posterior.mean * decoder.vae.config.scaling_factor, atol=1e-6)


def test_everything_is_frozen_and_stays_in_eval(decoder):
    decoder.train()
    assert is_frozen(decoder)
    assert not decoder.unet.training
    assert not decoder.vae.training
    assert not decoder.conditioner.text.text_encoder.training


def test_fewer_queries_than_the_limit_work_under_guidance(decoder):
    for queries in (1, 5, 77):
        conditioning = decoder.conditioner({"clip": torch.randn(2, queries, decoder.conditioner.width)})
        drawn = decoder.generate_images(
            conditioning, guidance_scale=3.0, num_inference_steps=2, generators=sample_generators(0, [0, 1])
        )
        assert drawn.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
def test_conditioner_is_built_again_from_its_description(folder, conditioning):
    first = load_conditioner(folder, DecoderSettings(conditioning, 64))
    again = build_conditioner(first.to_dict())
    again.load_state_dict(first.state_dict())
    embeddings = {space.name: torch.randn(1, 4, space.width) for space in first.spaces}
    assert torch.allclose(first(embeddings).states, again(embeddings).states, atol=1e-6)
    assert again.spaces == first.spaces


def test_a_resolution_that_does_not_fit_names_the_nearest(folder):
    with pytest.raises(ValueError, match=r"decoder_resolution=50.*give 48"):
        build_decoder(folder, DecoderSettings(resolution=50))


def test_other_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"model_index\.json"):
        build_decoder(tmp_path, DecoderSettings(resolution=64))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="FluxPipeline"):
        build_decoder(tmp_path, DecoderSettings(resolution=64))


def test_draws_move_together():
    sampled = NoiseAndTimesteps(torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.ones(1))
    assert sampled.to(torch.device("cpu")).timesteps.dtype == torch.int64
