"""The tiny family's training: what each part is shown, and that its objective is learned."""

import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer

from scripts.small_world.pretrain import main
from scripts.small_world.pretraining import architecture, objectives, parts, samples
from vlv.shapes.describe import PLACES, annotate, describe
from vlv.shapes.render import render
from vlv.shapes.runs import FAMILY
from vlv.shapes.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, SPLITS, make_component_scene, make_scene


@pytest.fixture(scope="module")
def tokenizers():
    return architecture.build_tokenizers(architecture.tokenizer_sentences(1500))


@pytest.mark.parametrize("name", ["stable-diffusion/tokenizer", "florence2", "qwen"])
def test_no_description_is_ever_cut(name):
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / name)  # the kept one
    numbered = [(number, make_scene(split, number)) for split in SPLITS for number in range(2500)]
    sentences = [text(scene, number) for number, scene in numbered for text in (describe, annotate)]
    rows = tokenizer([sentence + "<|endoftext|>" * (name == "qwen") for sentence in sentences])["input_ids"]
    assert max(map(len, rows)) <= architecture.TEXT_LENGTH
    # CLIP's unknown token is its end token too, and the padding, which stands once at the end.
    assert all(tokenizer.unk_token_id not in ids[:-1] for ids in rows)


def test_florence_never_sees_an_answer_that_binds_shape_colour_and_place():
    places = "|".join(phrase for phrases in PLACES.values() for phrase in phrases)
    kinds = set()
    for number in range(3000):
        question, answer = samples.task(make_scene("train", number), number)
        found = {word for word in (*SHAPES, *COLORS) if re.search(rf"\b{word}", f"{question} {answer}")}
        assert not (found & set(SHAPES) and found & set(COLORS)), (question, answer)
        has_shape = bool(re.search("|".join(SHAPES), answer))
        has_colour = bool(re.search("|".join(COLORS) + "|" + "|".join(BACKGROUNDS), answer))
        has_place = bool(re.search(places, answer))
        assert has_shape + has_colour + has_place <= 1, answer
        kinds.add((has_shape, has_colour, has_place))
    assert {(True, False, False), (False, True, False), (False, False, True)} <= kinds


def test_labels_name_every_place():
    scene = make_scene("train", 3)
    labels = samples.labels(scene)
    for item in scene.items:
        cell = item.row * 3 + item.column
        assert SHAPES[labels["shape"][cell] - 1] == item.shape
        assert list(COLORS)[labels["color"][cell] - 1] == item.color
        assert SIZES[labels["size"][cell] - 1] == item.size
    assert (labels["shape"] > 0).sum() == len(scene.items)


def test_a_document_tells_one_scene_twice(tokenizers):
    tokenizer, orders = tokenizers["qwen"], set()
    for number in range(40):
        ids = samples.DocumentSamples(tokenizer)(number)["ids"].tolist()
        assert ids.count(tokenizer.eos_token_id) == 2
        assert ids[-1] == tokenizer.eos_token_id
        end = ids.index(tokenizer.eos_token_id)
        first, second = tokenizer.decode(ids[:end]), tokenizer.decode(ids[end + 1 : -1])
        scene = make_component_scene(number)
        assert second == annotate(scene, number)
        background, *sentences = first.rstrip(".").split(". ")
        assert background == f"A {scene.background} background"
        places = [sentence.split(" is ")[0].lower() for sentence in sentences]
        for item in scene.items:
            found = sentences[places.index(PLACES[item.row, item.column][0])]
            assert {item.size, item.color, item.shape} <= set(re.findall(r"\w+", found))
            assert f"{item.color} {item.shape}" not in found  # the place alone leads from a caption back to its shape
        orders.add(places == [PLACES[item.row, item.column][0] for item in scene.items])
    assert orders == {True, False}


def test_a_tenth_of_the_prompts_is_empty(tokenizers, tmp_path):
    from safetensors.torch import save_file

    ones = torch.ones(5, 16, 8, 8)
    save_file({"mean": 0 * ones, "std": ones, "recolored": 2 * ones}, tmp_path / "latents.safetensors")
    sample = samples.LatentSamples(tokenizers["stable-diffusion"], tmp_path / "latents.safetensors")
    empty = samples.clip_ids(tokenizers["stable-diffusion"], "")
    share = sum(torch.equal(sample(number)["ids"], empty) for number in range(1000)) / 1000
    assert 0.07 < share < 0.13
    assert not torch.equal(sample(1)["ids"], sample(6)["ids"])  # the same scene, described in other words
    for number in range(50):  # without a text nothing says what the colours were
        without = torch.equal(sample(number)["ids"], empty)
        assert sample(number)["drift"].unique().tolist() == [0.0 if without else 2.0]


def build_objective(name, tokenizers):
    if name == "vae":
        return objectives.AutoencoderObjective(architecture.build_vae()), samples.crowded_sample
    if name == "text_encoder":
        tokenizer = tokenizers["stable-diffusion"]
        encoder = architecture.build_text_encoder(tokenizer)
        return objectives.TextReadOut(encoder), samples.TextSamples(tokenizer)
    if name == "qwen":
        tokenizer = tokenizers["qwen"]
        return objectives.LanguageObjective(architecture.build_qwen(tokenizer)), samples.DocumentSamples(tokenizer)
    florence2 = architecture.build_florence2(tokenizers["florence2"])
    if name == "tower":
        return objectives.TowerReadOut(florence2), samples.tower_sample
    whole = objectives.TaskObjective(florence2, train_tower=name == "own_tasks")
    return whole, samples.TaskSamples(tokenizers["florence2"])


@pytest.mark.parametrize("name", ["vae", "text_encoder", "tower", "florence2", "own_tasks", "qwen"])
def test_each_objective_can_be_learned(tokenizers, name):
    torch.manual_seed(0)
    objective, sample = build_objective(name, tokenizers)
    batch = samples.collate([{"numbers": number, **sample(number)} for number in range(4)])
    trained = [value for value in objective.parameters() if value.requires_grad]
    frozen = {key: value.clone() for key, value in objective.named_parameters() if not value.requires_grad}
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    losses = []
    for _ in range(16):
        loss = objective(batch)["loss"] / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, dict(objective.named_parameters())[key]) for key, value in frozen.items())
    tower = [key for key in frozen if "vision_tower" in key]
    assert bool(tower) == (name == "florence2")
    assert objective.counts(batch)["loss"] == 4


def test_saved_latents_have_unit_variance_and_the_round_trip_is_as_before(tmp_path):
    torch.manual_seed(0)
    vae = architecture.build_vae().eval()
    with torch.no_grad():  # one channel that carries next to nothing
        vae.quant_conv.weight[0] *= 1e-3
    pixels = torch.stack([samples.picture_sample(number)["pixels"] for number in range(64)]).float() / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn_like(posterior.mean)
        before = vae.decode(posterior.mean + posterior.std * noise).sample
    parts.save_vae(vae, tmp_path, count=64)
    saved = AutoencoderKL.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert saved.config.scaling_factor == 1.0
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise
        after = vae.decode(latents).sample
    assert torch.allclose(before, after, atol=3e-2)  # of a spread of 0.3; saving rounds to fp16
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(24), atol=0.05)
    assert latents.mean((0, 2, 3)).abs().max() < 0.1
    assert posterior.mean[:, 0].std() < 0.1  # noise is not blown up into signal


def test_the_schedule_ends_in_noise_alone():
    scheduler = architecture.build_scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-6
    assert scheduler.config.prediction_type == "v_prediction"
    assert not scheduler.config.clip_sample


class SeenUNet(torch.nn.Module):
    """Keeps what a UNet is asked."""

    def forward(self, noisy, timesteps, states):
        self.noisy, self.timesteps = noisy, timesteps
        return SimpleNamespace(sample=torch.zeros_like(noisy))


def run_text_to_image(tokenizers, count, **shares):
    encoder = architecture.build_text_encoder(tokenizers["stable-diffusion"])
    objective = objectives.TextToImageObjective(SeenUNet(), encoder, architecture.build_scheduler(), 1, **shares)
    batch = {
        "numbers": list(range(count)),
        "ids": samples.clip_ids(tokenizers["stable-diffusion"], "").expand(count, -1),
        "latent_mean": torch.zeros(count, 16, 8, 8),
        "latent_std": torch.zeros(count, 16, 8, 8),
        "drift": torch.ones(count, 16, 8, 8),
        "foreground": torch.ones(count, 1, 8, 8),
    }
    loss = objective(batch)["loss"]
    return loss, objective.model


def test_more_timesteps_may_come_from_the_noisiest_fifth(tokenizers):
    for late_share, (low, high) in ((0.0, (0.15, 0.25)), (0.5, (0.55, 0.65))):
        _, unet = run_text_to_image(tokenizers, 400, late_share=late_share)
        assert low < (unet.timesteps >= 800).float().mean() < high


def test_noise_may_lean_towards_other_colours_while_the_target_stays(tokenizers):
    _, plain = run_text_to_image(tokenizers, 400)
    loss, leaning = run_text_to_image(tokenizers, 400, drift_share=0.5)
    assert torch.equal(plain.timesteps, leaning.timesteps)
    signal = architecture.build_scheduler().alphas_cumprod[plain.timesteps].sqrt()
    full = signal * (1 - signal**2).sqrt()  # of the whole way to the other picture
    moved = leaning.noisy - plain.noisy
    assert torch.allclose(moved, moved[:, :1, :1, :1].expand_as(moved), atol=1e-5)  # along `drift` alone
    amount = (moved[:, 0, 0, 0] / full)[full > 0.05]
    assert 0.4 < (amount > 1e-3).float().mean() < 0.6
    assert amount.min() + 1e-4 >= 0
    assert 0.9 < amount.max() <= 1 + 1e-4
    # The clean latents that the target belongs to are the true ones (here 0), wherever the noise leans.
    noise = leaning.noisy / (1 - signal**2).sqrt()[:, None, None, None]
    velocity = signal[:, None, None, None] * noise
    assert torch.allclose(loss, (velocity**2).mean((1, 2, 3)).sum(), rtol=1e-4)


def test_the_error_weighs_more_where_shapes_lie(tokenizers):
    plain, _ = run_text_to_image(tokenizers, 20)
    weighted, _ = run_text_to_image(tokenizers, 20, foreground_weight=4.0)
    assert torch.allclose(weighted, 4 * plain)


def test_the_foreground_covers_every_shape_and_leaves_empty_places():
    for number in range(100):
        scene = make_scene("train", number)
        pixels = samples.to_pixels(render(scene, number)).float()
        shape = (pixels - torch.tensor(BACKGROUNDS[scene.background])[:, None, None]).abs().amax(0) > 8
        mask = samples.foreground(scene, 6, 6)[0]
        covered = mask.repeat_interleave(16, 0).repeat_interleave(16, 1).bool()
        assert (shape & ~covered).sum() <= 0.02 * shape.sum()
        assert mask.mean() <= 4 / 36 * len(scene.items) + 1e-6  # 2x2 of the 6x6 latents for each


def test_a_part_is_written_once(tmp_path, capsys):
    out, work = tmp_path / "family", tmp_path / "work"
    main(["tokenizers", f"out={out}"])
    call = ["qwen", f"out={out}", f"work={work}", "steps=1", "precision=fp32"]
    main(call)
    assert (out / "qwen" / "model.safetensors").is_file()
    assert (work / "qwen" / "metrics.jsonl").is_file()
    capsys.readouterr()
    main(call)
    assert "qwen is finished" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["unets"])
    assert stopped.value.code == 2
    assert "part=unets cannot be used: give one of tokenizers, vae" in capsys.readouterr().err
