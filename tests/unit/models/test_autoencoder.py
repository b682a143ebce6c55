import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder
from vlv.checkpoints.initial import load_initial
from vlv.checkpoints.schema import require_checkpoint
from vlv.decoders import DecoderSettings
from vlv.encoders import EncoderSettings
from vlv.losses import LossOptions
from vlv.models.from_stage1 import decoder_of
from vlv.models.objectives import DenoisingObjective
from vlv.sampling import sample_generators


def build(tiny_components, **changes):
    torch.manual_seed(0)
    return new_stage1(tiny_components, **{"num_queries": 16, **changes})


@pytest.fixture(scope="module")
def model(tiny_components):
    return build(tiny_components)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "encoder_pixels": torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=generator),
        "decoder_pixels": torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator),
        "weights": torch.ones(3),
        "positions": [0, 1, 2],
    }


def prefixes(module, depth):
    return {".".join(name.split(".")[:depth]) for name, value in module.named_parameters() if value.requires_grad}


def test_what_trains(tiny_components):
    heads = {"query_embed", "language_proj.clip"}
    bart = {f"florence2.language_model.{part}" for part in ("shared", "encoder", "decoder")}

    def trained(part):
        encoder = build(tiny_components, trained=part).encoder
        return {name for name, value in encoder.named_parameters() if value.requires_grad}

    paper, decoder_only, everything = trained("language_model"), trained("decoder_only"), trained("all")
    assert all(name.startswith((*heads, *bart)) for name in paper)
    assert all(name.startswith((*heads, "florence2.language_model.decoder")) for name in decoder_only)
    assert heads <= {".".join(name.split(".")[:2]) for name in paper}
    assert any("vision_tower" in name for name in everything)
    assert decoder_only < paper < everything


def test_train_mode_does_not_wake_frozen_parts(model):
    model.train()
    assert model.encoder.florence2.language_model.training
    awake = [name for name, module in model.named_modules() if module.training and "vision_tower" in name]
    assert awake == []
    assert not model.decoder.unet.training
    model.eval()
    assert not any(module.training for module in model.modules())


def test_queries_are_read_causally(model):
    model.eval()
    states = torch.randn(1, 30, model.encoder.query_embed.shape[-1])
    before = model.encoder.read_queries(states)
    change = torch.randn_like(model.encoder.query_embed[:, 10:])
    with torch.no_grad():
        model.encoder.query_embed[:, 10:] += change
    after = model.encoder.read_queries(states)
    with torch.no_grad():
        model.encoder.query_embed[:, 10:] -= change
    assert torch.allclose(before[:, :10], after[:, :10], atol=1e-5)
    assert not torch.allclose(before[:, 10:], after[:, 10:], atol=1e-3)


def test_gradients_reach_the_encoder_through_the_frozen_decoder(model, batch):
    objective = DenoisingObjective(model, seed=0)
    objective(batch)["diffusion"].backward()
    assert model.encoder.query_embed.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.decoder.parameters())
    model.zero_grad()


def test_a_place_of_weight_zero_changes_nothing(model, batch):
    objective = DenoisingObjective(model, seed=0).eval()
    whole = objective({**batch, "weights": torch.tensor([1.0, 0.0, 1.0])})["diffusion"]
    rows = torch.tensor([0, 2])
    without = objective(
        {
            "encoder_pixels": batch["encoder_pixels"][rows],
            "decoder_pixels": batch["decoder_pixels"][rows],
            "weights": torch.ones(2),
            "positions": [0, 2],
        }
    )["diffusion"]
    assert torch.allclose(whole, without, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 77])
def test_query_counts_up_to_the_limit(tiny_components, queries):
    model = build(tiny_components, num_queries=queries)
    image = Image.new("RGB", (70, 90), "red")
    assert model.reconstruct([image], guidance_scale=2.0, num_inference_steps=2)[0].size == (64, 64)


def test_too_many_queries_name_the_limit(tiny_components):
    with pytest.raises(ValueError, match=r"num_queries=78.*1 to 77"):
        build(tiny_components, num_queries=78)


def test_direct_conditioning_draws_and_trains(tiny_components, batch):
    model = build(tiny_components, conditioning="direct")
    assert list(model.encoder.language_proj) == ["cross_attention"]
    assert DenoisingObjective(model, seed=0)(batch)["diffusion"].requires_grad
    image = Image.new("RGB", (64, 64), "blue")
    assert model.reconstruct([image], num_inference_steps=2)[0].size == (64, 64)


def test_reconstruction_does_not_depend_on_the_batch(model):
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    together = model.reconstruct(images, num_inference_steps=3, seeds=[5, 6, 7])
    alone = model.reconstruct(images[1:2], num_inference_steps=3, seeds=[6])[0]
    a, b = (torch.frombuffer(bytearray(x.tobytes()), dtype=torch.uint8).int() for x in (together[1], alone))
    assert (a - b).abs().max() <= 1


def test_saved_model_loads_to_the_same_bits(model, tmp_path, tiny_components):
    model.save_pretrained(tmp_path)
    again = VLVAutoEncoder.from_pretrained(tmp_path)
    for (name, value), (other_name, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(value, other)
    assert again.trained == model.trained


def test_checkpoint_holds_the_trained_weights_alone(model, tmp_path):
    from safetensors import safe_open

    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.trained_state())


def test_moved_base_is_named(model, tmp_path, tiny_components):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["bases"]["decoder"]["source"] = "/nowhere/stable-diffusion"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"/nowhere/stable-diffusion.*stable_diffusion_model_path"):
        VLVAutoEncoder.from_pretrained(tmp_path)
    moved = VLVAutoEncoder.from_pretrained(tmp_path, stable_diffusion=str(tiny_components / "stable-diffusion"))
    assert torch.equal(moved.encoder.query_embed, model.encoder.query_embed)


def test_another_base_is_refused(model, tmp_path, tiny_components):
    model.save_pretrained(tmp_path / "final")
    other = tmp_path / "other"
    shutil.copytree(tiny_components / "stable-diffusion", other)
    scheduler = other / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"epsilon"', '"v_prediction"'))
    with pytest.raises(ValueError, match="is not the one that the checkpoint was trained with"):
        VLVAutoEncoder.from_pretrained(tmp_path / "final", stable_diffusion=str(other))


def test_a_stage1_folder_is_named_where_a_captioner_is_wanted(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a stage-1 checkpoint .*captioner is needed"):
        require_checkpoint(tmp_path, "stage2")


def test_original_and_native_florence_give_the_same(tiny_components, tmp_path_factory):
    from vlv.encoders.florence2_layout import convert_weights, rename_original

    assert rename_original("vision_tower.blocks.2.0.spatial_block.window_attn.fn.qkv.bias") == (
        "vision_tower.blocks.2.0.spatial_block.window_attn.qkv.bias"
    )
    assert rename_original("language_model.lm_head.weight") is None
    made = convert_weights({"image_projection": torch.arange(6.0).reshape(2, 3)})
    assert made["multi_modal_projector.image_projection.weight"].shape == (3, 2)


@pytest.mark.parametrize("name", ["florence2", "stable-diffusion"])
def test_missing_component_is_one_line(tiny_components, tmp_path, name):
    paths = {key: str(tiny_components / key) for key in ("stable-diffusion", "florence2")}
    paths[name] = str(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"absent is not there") as failure:
        VLVAutoEncoder.from_components(paths["stable-diffusion"], paths["florence2"])
    assert "\n" not in str(failure.value)


def test_a_base_with_other_weights_is_refused(model, tmp_path, tiny_components):
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path / "final")
    shutil.copytree(tiny_components / "florence2", tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ValueError, match=r"florence2 in .*other is not the one .*their weights differ"):
        VLVAutoEncoder.from_pretrained(tmp_path / "final", florence2=str(tmp_path / "other"))


def test_conditioning_dropout_trains_on_the_empty_prompt(model, batch):
    objective = DenoisingObjective(model, seed=0, conditioning_dropout=0.999999)
    plain = DenoisingObjective(model, seed=0)
    assert torch.equal(objective.eval()(batch)["diffusion"], plain.eval()(batch)["diffusion"])
    model.encoder.set_dropout(0.0)
    dropped = objective.train()(batch)["diffusion"]
    sampled = model.decoder.sample_noise_and_timesteps(sample_generators(0, batch["positions"]))
    latents = model.decoder.encode_images(batch["decoder_pixels"], sampled.posterior_noise)
    empty = model.decoder.unconditional(model.embed(batch["encoder_pixels"]))
    expected = model.decoder.denoising_loss(latents, empty, sampled).sum()
    assert torch.allclose(dropped, expected, atol=1e-5)
    model.eval()


def test_several_draws_of_noise_are_the_mean_of_each_alone_and_validation_has_one(model, batch):
    three, one = DenoisingObjective(model, seed=0, noise_draws=3), DenoisingObjective(model, seed=0)
    assert torch.equal(three.eval()(batch)["diffusion"], one.eval()(batch)["diffusion"])
    model.encoder.set_dropout(0.0)
    together = three.train()(batch)["diffusion"]
    generators = sample_generators(0, batch["positions"])
    draws = [model.decoder.sample_noise_and_timesteps(generators) for _ in range(3)]
    first = draws[0].posterior_noise  # the image is the same in all
    alone = [model(*(batch[f"{name}_pixels"] for name in ("encoder", "decoder")), each._replace(posterior_noise=first))
             for each in draws]  # fmt: skip
    assert torch.allclose(together, torch.stack(alone).mean(0).sum(), atol=1e-5)
    model.eval()


def test_min_snr_weighs_each_sample(model, batch):
    sampled = model.decoder.sample_noise_and_timesteps(sample_generators(0, batch["positions"]))
    plain = model(batch["encoder_pixels"], batch["decoder_pixels"], sampled)
    model.decoder.set_loss_options(LossOptions(min_snr_gamma=5.0))
    weighted = model(batch["encoder_pixels"], batch["decoder_pixels"], sampled)
    model.decoder.set_loss_options(LossOptions())
    signal = model.decoder.noise_scheduler.alphas_cumprod[sampled.timesteps]
    snr = signal / (1 - signal)
    assert torch.allclose(weighted, plain * torch.minimum(snr, torch.tensor(5.0)) / snr, atol=1e-5)


def test_starting_from_an_earlier_model(model, tiny_components, tmp_path):
    model.save_pretrained(tmp_path)
    fresh = build(tiny_components)
    with torch.no_grad():
        fresh.encoder.query_embed += 1
    load_initial(fresh, str(tmp_path))
    assert torch.equal(fresh.encoder.query_embed, model.encoder.query_embed)
    with pytest.raises(ValueError, match="has shape"):
        load_initial(build(tiny_components, num_queries=8), str(tmp_path))
    with pytest.raises(ValueError, match="is no model of VLV"):
        load_initial(fresh, str(tiny_components / "florence2"))
    with pytest.raises(ValueError, match="is no model of VLV"):
        load_initial(fresh, str(tiny_components))


def test_the_api_takes_any_number_of_images(tiny_components, sample_photos):
    model = build(tiny_components)
    images = [Image.open(path) for path in sorted(sample_photos.glob("*.jpg"))[:3]]
    together = model.reconstruct(images, num_inference_steps=2)
    apart = model.reconstruct(images, num_inference_steps=2, batch_size=2)
    for one, other in zip(together, apart, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    assert model.reconstruct([]) == []
    with pytest.raises(ValueError, match=r"where a list is wanted: give \[image\]"):
        model.reconstruct(images[0])
    for steps in (0, 2000):
        with pytest.raises(ValueError, match=f"num_inference_steps={steps} cannot be used: give 1 to 1000"):
            model.reconstruct(images, num_inference_steps=steps)


def test_an_initial_embedding_with_fewer_rows_leaves_the_others_as_they_are(tiny_components, tmp_path):
    """A captioner imported on the original base starts a stage 1 on the hub's, whose embedding is padded."""
    from safetensors.torch import load_file, save_file

    build(tiny_components).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.florence2.language_model.shared.weight"
    weights[name] = torch.ones_like(weights[name][:-5])
    save_file(weights, tmp_path / "model.safetensors")
    fresh = build(tiny_components)
    shared = fresh.encoder.florence2.language_model.shared.weight
    before = shared.detach().clone()
    load_initial(fresh, str(tmp_path))
    assert (shared[:-5] == 1).all()
    assert torch.equal(shared[-5:], before[-5:])
    weights[name] = torch.ones(len(before) + 1, before.shape[1])
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"shared\.weight has shape"):
        load_initial(fresh, str(tmp_path))


def test_loss_options_are_recorded_with_the_model(tiny_components, tmp_path):
    model = new_stage1(tiny_components)
    assert "loss_options" not in model.describe()
    identity = model.identity()
    model.decoder.set_loss_options(LossOptions(min_snr_gamma=5.0))
    assert model.describe()["loss_options"] == {"min_snr_gamma": 5.0}
    assert model.identity() == identity  # a run may resume with other weights of the loss, as before
    model.save_pretrained(tmp_path / "stage1")
    assert VLVAutoEncoder.from_pretrained(tmp_path / "stage1").decoder.loss_options == LossOptions(min_snr_gamma=5.0)
    captioner = new_captioner(tmp_path / "stage1", tiny_components / "qwen", draws_with_own_weights=True)
    assert decoder_of(captioner).loss_options == LossOptions(min_snr_gamma=5.0)


@pytest.mark.parametrize("queries", [1, 12, 77])
def test_dropped_conditioning_of_sd3_direct_is_the_empty_prompt_of_generation(folders, tiny_components, batch, queries):
    """For every number of queries: all of the pipeline's rows, as generation guides with."""
    model = VLVAutoEncoder.from_components(
        str(folders / "3"),
        str(tiny_components / "florence2"),
        DecoderSettings("direct", 64),
        EncoderSettings(queries, resolution=128),
    )
    seen, predict = [], model.decoder.predict

    def watched(noisy_latents, timesteps, conditioning, crops):
        seen.append(conditioning.states[0].detach())
        return predict(noisy_latents, timesteps, conditioning, crops)

    model.decoder.predict = watched
    sampled = model.decoder.sample_noise_and_timesteps(sample_generators(0, batch["positions"]))
    dropped = torch.tensor([True, False, True])
    pixels = (batch["encoder_pixels"], batch["decoder_pixels"])
    losses = model(*pixels, sampled, dropped)
    in_training = seen[0]
    plain = model(*pixels, sampled)
    seen.clear()
    model.reconstruct_pixels(
        pixels[0], guidance_scale=2.0, num_inference_steps=1, generators=sample_generators(0, range(3))
    )
    assert torch.equal(in_training, seen[0])
    assert len(in_training) == 154
    latents = model.decoder.encode_images(batch["decoder_pixels"], sampled.posterior_noise)
    empty = model.decoder.denoising_loss(latents, model.decoder.unconditional(model.embed(pixels[0])), sampled)
    assert torch.equal(losses, torch.where(dropped, empty, plain))
    losses.sum().backward()
    assert model.encoder.query_embed.grad.abs().sum() > 0
