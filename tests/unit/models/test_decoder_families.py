"""SDXL and SD 3.5 against diffusers' own pipelines: a prompt's token embeddings, given as z, must do the same."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from vlv.models.decoders import build_conditioner, load_conditioner, load_decoder, load_skeleton
from vlv.models.tiny_components import SENTENCES
from vlv.sampling import sample_generators, sample_noise

SHORT = "a red house beside the sea"
FULL = " ".join(SENTENCES * 3)  # more than 77 tokens: fills every row, the last one with EOS
FAMILIES = ["xl", "3", "3_without_t5"]


@pytest.fixture(scope="module")
def families(folders):
    """Decoder and pipeline of each family, loaded once."""
    made = {}
    for name in FAMILIES:
        pipeline_class = StableDiffusionXLPipeline if name == "xl" else StableDiffusion3Pipeline
        without = {"text_encoder_3": None, "tokenizer_3": None} if name == "3_without_t5" else {}
        pipeline = pipeline_class.from_pretrained(folders / name, **without)
        pipeline.set_progress_bar_config(disable=True)
        made[name] = SimpleNamespace(decoder=load_decoder(folders / name, "text_encoder", 64), pipeline=pipeline)
    return made


def table_rows(pipeline, prompts):
    """Each space's token embeddings of prompts, and the row of each prompt's first EOS."""
    embeddings = {}
    for space, suffix in (("clip_l", ""), ("clip_g", "_2")):
        tokenizer, text = getattr(pipeline, f"tokenizer{suffix}"), getattr(pipeline, f"text_encoder{suffix}")
        ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        embeddings[space] = text.get_input_embeddings()(ids).detach()
        end = (ids == text.config.eos_token_id).int().argmax(1)
    if getattr(pipeline, "text_encoder_3", None) is not None:
        tokenizer, text = pipeline.tokenizer_3, pipeline.text_encoder_3
        ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        embeddings["t5"] = text.get_input_embeddings()(ids).detach()
    return embeddings, end


def encode(pipeline, prompts):
    """(states, empty states, pooled, empty pooled), by the pipeline."""
    if isinstance(pipeline, StableDiffusionXLPipeline):
        return pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=True)
    return pipeline.encode_prompt(prompts, None, None, device="cpu", max_sequence_length=77)


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
    rows = {"xl": 8, "3": 16, "3_without_t5": 8}[name]
    assert torch.equal(conditioner.telling(states), states[:, :rows])
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
    decoder = load_decoder(folders / name, "direct", 64)
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
    decoder = load_decoder(folders / name, "text_encoder", 64)
    decoder.set_dtypes(torch.bfloat16)
    assert {value.dtype for value in decoder.vae.parameters()} == {torch.float32}
    assert next(iter((decoder.unet if name == "xl" else decoder.transformer).parameters())).dtype == torch.bfloat16
    embeddings = {s.name: torch.randn(2, 8, s.width, requires_grad=True) for s in decoder.conditioner.spaces}
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    draws = decoder.sample_draws(sample_generators(1, range(2)))
    with torch.autocast("cpu", torch.bfloat16):
        latents = decoder.encode_images(pixels, draws.posterior_noise)
        losses = decoder.denoising_loss(latents, decoder.conditioner(embeddings), draws)
        losses.sum().backward()
        options = {"guidance_scale": 2.0, "num_inference_steps": 2, "generators": sample_generators(0, range(2))}
        drawn = decoder.draw_images(decoder.conditioner(embeddings), **options)
    assert losses.isfinite().all()
    assert all(value.grad.abs().sum() > 0 for value in embeddings.values())
    assert drawn.shape == (2, 3, 64, 64)


def test_xl_training_loss_is_the_examples(families):
    """As diffusers' train_text_to_image_sdxl.py has it, on the same noise, timesteps and crops."""
    decoder, pipeline = families["xl"].decoder, families["xl"].pipeline
    latents = torch.randn(3, *decoder.latent_shape)
    draws = decoder.sample_draws(sample_generators(1, range(3)))
    embeddings, end = table_rows(pipeline, [SHORT, "a boat", FULL])
    states, _, pooled, _ = encode(pipeline, [SHORT, "a boat", FULL])
    crops = torch.tensor([[1333, 800, 0, 21], [64, 64, 0, 0], [3000, 4000, 7, 0]])
    time_ids = torch.cat([torch.tensor([[*row, 64, 64]]).float() for row in crops.tolist()])
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy = noise_scheduler.add_noise(latents, draws.noise, draws.timesteps)
    added = {"time_ids": time_ids, "text_embeds": pooled}
    pred = pipeline.unet(noisy, draws.timesteps, states, added_cond_kwargs=added).sample
    expected = torch.nn.functional.mse_loss(pred, draws.noise, reduction="none").mean((1, 2, 3))
    got = decoder.denoising_loss(latents, decoder.conditioner(embeddings, end), draws, crops)
    assert torch.allclose(got, expected, atol=1e-5)
    elsewhere = decoder.denoising_loss(latents, decoder.conditioner(embeddings, end), draws, None)
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
    draws = decoder.sample_draws(sample_generators(1, range(2)))
    embeddings, end = table_rows(pipeline, [SHORT, FULL])
    states, _, pooled, _ = encode(pipeline, [SHORT, FULL])
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    timesteps = scheduler.timesteps[draws.timesteps]
    rows = [(scheduler.timesteps == t).nonzero().item() for t in timesteps]
    sigmas = scheduler.sigmas[rows].flatten()[:, None, None, None]
    noisy = (1.0 - sigmas) * latents + sigmas * draws.noise
    pred = pipeline.transformer(
        hidden_states=noisy, timestep=timesteps, encoder_hidden_states=states, pooled_projections=pooled
    ).sample
    target = draws.noise - latents
    if precondition:
        pred, target = pred * (-sigmas) + noisy, latents
    weighting = compute_loss_weighting_for_sd3("logit_normal", sigmas)
    expected = (weighting.float() * (pred.float() - target.float()) ** 2).flatten(1).mean(1)
    decoder.precondition_outputs = precondition
    got = decoder.denoising_loss(latents, decoder.conditioner(embeddings, end), draws)
    decoder.precondition_outputs = False
    assert torch.allclose(got, expected, atol=1e-5)


def test_sd3_timesteps_are_logit_normal(families):
    decoder = families["3"].decoder
    got = decoder.sample_draws(sample_generators(3, range(4000))).timesteps.float() / 1000
    torch.manual_seed(0)
    expected = compute_density_for_timestep_sampling("logit_normal", 4000, logit_mean=0.0, logit_std=1.0)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs(got.quantile(share) - expected.quantile(share)) < 0.03


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
@pytest.mark.parametrize("queries", [1, 5, 77])
def test_any_number_of_queries_conditions_and_draws(folders, name, conditioning, queries):
    decoder = load_decoder(folders / name, conditioning, 64)
    embeddings = {s.name: torch.randn(2, queries, s.width, requires_grad=True) for s in decoder.conditioner.spaces}
    draws = decoder.sample_draws(sample_generators(1, range(2)))
    losses = decoder.denoising_loss(torch.randn(2, *decoder.latent_shape), decoder.conditioner(embeddings), draws)
    losses.sum().backward()
    assert losses.shape == (2,)
    assert all(value.grad.abs().sum() > 0 for value in embeddings.values())
    pictures = decoder.draw_images(
        decoder.conditioner(embeddings),
        guidance_scale=2.0,
        num_inference_steps=2,
        generators=sample_generators(0, range(2)),
        scheduler="euler",
    )
    assert pictures.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_few_pictures_can_be_overfitted(families, name):
    """The loss on fixed noise falls as embeddings alone train: gradients pass through all that is frozen."""
    decoder = families[name].decoder
    torch.manual_seed(0)
    latents = torch.randn(3, *decoder.latent_shape)
    draws = decoder.sample_draws(sample_generators(1, range(3)))
    embeddings = {s.name: (0.02 * torch.randn(3, 8, s.width)).requires_grad_() for s in decoder.conditioner.spaces}
    optimizer = torch.optim.AdamW(embeddings.values(), lr=0.02)
    losses = []
    for _ in range(15):
        loss = decoder.denoising_loss(latents, decoder.conditioner(embeddings), draws).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("xl", (None, True), "rectified flow's"),
        ("3", (5.0, False), "is for UNets"),
    ],
)
def test_a_weighting_of_another_objective_is_refused(families, name, options, message):
    with pytest.raises(ValueError, match=message):
        families[name].decoder.set_loss_weights(*options)


def test_a_scheduler_of_another_objective_is_refused(families):
    assert [families[name].decoder.scheduler_name("auto") for name in FAMILIES] == ["ddpm", "euler", "euler"]
    with pytest.raises(ValueError, match="scheduler='ddim' does not fit this decoder: give auto, euler, heun"):
        families["3"].decoder.scheduler_name("ddim")


def test_without_t5_to_leave_out_clip_is_refused(folders):
    with pytest.raises(ValueError, match="conditioning=clip leaves T5 out"):
        load_conditioner(folders / "xl", "clip", torch.float32)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("conditioning", ["text_encoder", "direct", "clip"])
def test_the_conditioner_is_built_again_from_its_description(folders, name, conditioning):
    if conditioning == "clip" and name == "xl":
        pytest.skip("SDXL has no T5 to leave out")
    loaded = load_conditioner(folders / name, conditioning, torch.float32)
    built = build_conditioner(loaded.to_dict())
    built.load_state_dict(loaded.state_dict())
    embeddings = {space.name: torch.randn(2, 7, space.width) for space in loaded.spaces}
    assert built.spaces == loaded.spaces
    for got, wanted in zip(built.eval()(embeddings), loaded.eval()(embeddings), strict=True):
        assert torch.equal(got, wanted)
    skeleton = load_skeleton(folders / name, conditioning, 64)
    names = {key: value.shape for key, value in load_decoder(folders / name, conditioning, 64).state_dict().items()}
    assert {key: value.shape for key, value in skeleton.state_dict().items()} == names
    assert all(value.device.type == "meta" for value in skeleton.state_dict().values())
