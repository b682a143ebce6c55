"""SDXL and SD 3.5 against diffusers' own pipelines: a prompt's token embeddings, given as z, must do the same."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from tests.unit.decoders.pipelines import FAMILIES, FULL, SHORT, encode, overfit, table_rows
from vlv.decoders import DecoderSettings, build_conditioner, build_decoder, load_conditioner
from vlv.losses import LossOptions
from vlv.sampling import sample_generators, sample_noise


@pytest.mark.parametrize("name", FAMILIES)
def test_the_conditioning_is_the_pipelines_at_a_short_prompts_end(families, name):
    decoder, pipeline = families[name].decoder, families[name].pipeline
    embeddings, end = table_rows(pipeline, [SHORT, "a boat"])
    states, empty, pooled, empty_pooled = encode(pipeline, [SHORT, "a boat"])
    got = decoder.conditioner(embeddings, end)
    assert set(embeddings) == {space.name for space in decoder.conditioner.spaces}
    assert end.tolist() != [76, 76]
    assert torch.allclose(got.states, states, atol=1e-5)
    assert torch.allclose(got.pooled, pooled, atol=1e-5)
    unconditional = decoder.unconditional(got)
    assert torch.allclose(unconditional.states, empty, atol=1e-5)
    assert torch.allclose(unconditional.pooled, empty_pooled, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_captioner_reads_the_rows_that_the_embeddings_made(families, name):
    conditioner = families[name].decoder.conditioner
    embeddings = {space.name: torch.randn(2, 8, space.width) for space in conditioner.spaces}
    states = conditioner(embeddings).states
    rows = {"xl": 8, "3": 16, "3_large": 16, "3_without_t5": 8}[name]
    assert torch.equal(conditioner.prefix_states(states), states[:, :rows])
    assert conditioner.num_prefix_tokens(8) == rows
    assert not states[:, rows:].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_row_is_pooled_by_default(families, name):
    decoder, pipeline = families[name].decoder, families[name].pipeline
    embeddings, end = table_rows(pipeline, [FULL])
    assert end.tolist() == [76]
    states, _, pooled, _ = encode(pipeline, [FULL])
    got = decoder.conditioner(embeddings)
    assert torch.allclose(got.states, states, atol=1e-5)
    assert torch.allclose(got.pooled, pooled, atol=1e-5)
    assert not torch.allclose(got.pooled, decoder.conditioner(embeddings, end - 1).pooled, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_the_pipelines(families, drawn_exactly, name, guidance_scale, batch):
    decoder, pipeline = families[name].decoder, families[name].pipeline
    prompts = [SHORT, "a boat", FULL][:batch]
    samplers = {"euler": FlowMatchEulerDiscreteScheduler}
    if name == "xl":  # Euler scales the first noise and what the denoiser sees, the others do not
        samplers = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler, "euler": EulerDiscreteScheduler}
    for sampler, scheduler in samplers.items():
        pipeline.scheduler = scheduler.from_config(decoder.noise_scheduler.config)
        generators = sample_generators(0, range(batch))
        noise = sample_noise(decoder.latent_shape, generators)
        options = {} if name == "xl" else {"max_sequence_length": 77}
        expected = pipeline(
            prompts,
            latents=noise,
            height=64,
            width=64,
            num_inference_steps=4,
            guidance_scale=guidance_scale,
            generator=generators,
            output_type="pt",
            **options,
        ).images
        embeddings, end = table_rows(pipeline, prompts)
        drawn = drawn_exactly(
            decoder,
            decoder.conditioner(embeddings, end),
            guidance_scale=guidance_scale,
            num_inference_steps=4,
            generators=sample_generators(0, range(batch)),
            scheduler=sampler,
        )
        assert torch.allclose(drawn, expected, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_text_encoders_the_empty_prompt_stays_the_pipelines(folders, families, name):
    decoder = build_decoder(folders / name, DecoderSettings("direct", 64))
    embeddings = {space.name: torch.randn(2, 77, space.width) for space in decoder.conditioner.spaces}
    assert not any(key.startswith("conditioner.clip") for key in decoder.state_dict())
    unconditional = decoder.unconditional(decoder.conditioner(embeddings))
    _, empty, _, empty_pooled = encode(families[name].pipeline, [SHORT, SHORT])
    assert torch.allclose(unconditional.states, empty, atol=1e-5)
    assert torch.allclose(unconditional.pooled, empty_pooled, atol=1e-5)
    mixed = unconditional.where(torch.tensor([True, False]), decoder.conditioner(embeddings))
    assert torch.equal(mixed.states[0], unconditional.states[0, :77])
    assert torch.equal(mixed.states[1], decoder.conditioner(embeddings).states[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_are_shifted_and_scaled_as_the_vaes_config_says(families, name):
    decoder, vae = families[name].decoder, families[name].pipeline.vae
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    mean = vae.encode(2 * pixels.float() / 255 - 1).latent_dist.mean
    expected = (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    got = decoder.encode_images(pixels, torch.zeros(1, *decoder.latent_shape))
    assert torch.allclose(got, expected, atol=1e-5)
    assert (vae.config.shift_factor is None) == (name == "xl")


@pytest.mark.parametrize("name", FAMILIES)
def test_in_bf16_the_vae_stays_in_fp32_and_all_of_it_trains_and_draws(folders, name):
    decoder = build_decoder(folders / name, DecoderSettings(resolution=64))
    decoder.set_dtypes(torch.bfloat16)
    assert {value.dtype for value in decoder.vae.parameters()} == {torch.float32}
    assert next(iter((decoder.unet if name == "xl" else decoder.transformer).parameters())).dtype == torch.bfloat16
    embeddings = {s.name: torch.randn(2, 8, s.width, requires_grad=True) for s in decoder.conditioner.spaces}
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, range(2)))
    with torch.autocast("cpu", torch.bfloat16):
        latents = decoder.encode_images(pixels, sampled.posterior_noise)
        losses = decoder.denoising_loss(latents, decoder.conditioner(embeddings), sampled)
        losses.sum().backward()
        options = {"guidance_scale": 2.0, "num_inference_steps": 2, "generators": sample_generators(0, range(2))}
        drawn = decoder.generate_images(decoder.conditioner(embeddings), **options)
    assert losses.isfinite().all()
    assert all(value.grad.abs().sum() > 0 for value in embeddings.values())
    assert drawn.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
@pytest.mark.parametrize("queries", [1, 5, 77])
def test_any_number_of_queries_conditions_and_draws(folders, name, conditioning, queries):
    decoder = build_decoder(folders / name, DecoderSettings(conditioning, 64))
    embeddings = {s.name: torch.randn(2, queries, s.width, requires_grad=True) for s in decoder.conditioner.spaces}
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, range(2)))
    losses = decoder.denoising_loss(torch.randn(2, *decoder.latent_shape), decoder.conditioner(embeddings), sampled)
    losses.sum().backward()
    assert losses.shape == (2,)
    assert all(value.grad.abs().sum() > 0 for value in embeddings.values())
    pictures = decoder.generate_images(
        decoder.conditioner(embeddings),
        guidance_scale=2.0,
        num_inference_steps=2,
        generators=sample_generators(0, range(2)),
        scheduler="euler",
    )
    assert pictures.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_few_pictures_can_be_overfitted(families, name):
    losses = overfit(families[name].decoder)
    assert losses[-1] < losses[0] - 1e-3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("xl", LossOptions(precondition_outputs=True), "precondition_outputs=true does not fit .*=false"),
        ("3", LossOptions(min_snr_gamma=5.0), "min_snr_gamma=5.0 does not fit .*supports precondition_outputs.*=null"),
    ],
)
def test_a_weighting_of_another_objective_is_refused(families, name, options, message):
    with pytest.raises(ValueError, match=message):
        families[name].decoder.set_loss_options(options)


def test_a_scheduler_of_another_objective_is_refused(families):
    assert [families[name].decoder.scheduler_name("auto") for name in FAMILIES] == ["ddpm", "euler", "euler", "euler"]
    with pytest.raises(ValueError, match="scheduler='ddim' does not fit this decoder: give auto, euler, heun"):
        families["3"].decoder.scheduler_name("ddim")


def test_without_t5_to_leave_out_clip_is_refused(folders):
    with pytest.raises(ValueError, match="conditioning=clip leaves T5 out"):
        load_conditioner(folders / "xl", DecoderSettings("clip", 64))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("conditioning", ["text_encoder", "direct", "clip"])
def test_the_conditioner_is_built_again_from_its_description(folders, name, conditioning):
    if conditioning == "clip" and name == "xl":
        pytest.skip("SDXL has no T5 to leave out")
    loaded = load_conditioner(folders / name, DecoderSettings(conditioning, 64))
    built = build_conditioner(loaded.to_dict())
    built.load_state_dict(loaded.state_dict())
    embeddings = {space.name: torch.randn(2, 7, space.width) for space in loaded.spaces}
    assert built.spaces == loaded.spaces
    for got, wanted in zip(built.eval()(embeddings), loaded.eval()(embeddings), strict=True):
        assert torch.equal(got, wanted)
    skeleton = build_decoder(folders / name, DecoderSettings(conditioning, 64), device="meta")
    names = {
        key: value.shape
        for key, value in build_decoder(folders / name, DecoderSettings(conditioning, 64)).state_dict().items()
    }
    assert {key: value.shape for key, value in skeleton.state_dict().items()} == names
    assert all(value.device.type == "meta" for value in skeleton.state_dict().values())
