import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.checkpoints.schema import require_checkpoint
from vlv.losses import IGNORED
from vlv.models.from_stage1 import decoder_of, preview_autoencoder
from vlv.models.objectives import CaptionObjective


@pytest.fixture(scope="module")
def stage1(tiny_components, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stage1")
    new_stage1(tiny_components).save_pretrained(folder)
    return folder


def build(stage1, tiny_components, language_model=None, **changes):
    torch.manual_seed(0)
    changes = {"trained": ["mlp", "llm", "encoder"], **changes}
    return new_captioner(stage1, language_model or tiny_components / "qwen", **changes)


@pytest.fixture(scope="module")
def captioner(stage1, tiny_components):
    return build(stage1, tiny_components)


def pair_batch(captioner, captions, size=3):
    tokenizer = captioner.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in captions]
    length = max(map(len, ids))
    input_ids = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    generator = torch.Generator().manual_seed(1)
    return {
        "encoder_pixels": torch.randint(0, 256, (len(ids), 3, 128, 128), dtype=torch.uint8, generator=generator),
        "decoder_pixels": torch.randint(0, 256, (len(ids), 3, 64, 64), dtype=torch.uint8, generator=generator),
        "weights": torch.ones(len(ids)),
        "positions": list(range(len(ids))),
        "input_ids": input_ids,
        "labels": input_ids.masked_fill(mask == 0, IGNORED),
    }


@pytest.mark.parametrize(
    ("parts", "wanted", "unwanted"),
    [
        (["mlp"], ["mlp.layers"], ["llm.", "encoder."]),
        (["mlp", "llm"], ["mlp.layers", "llm."], ["encoder."]),
        (["mlp", "llm", "encoder"], ["mlp.", "llm.", "encoder.florence2.language_model."], ["encoder.query_embed"]),
    ],
)
def test_what_trains(captioner, parts, wanted, unwanted):
    captioner.set_trained(parts)
    names = [name for name, value in captioner.named_parameters() if value.requires_grad]
    assert all(any(name.startswith(start) for name in names) for start in wanted)
    assert not any(name.startswith(start) for name in names for start in unwanted)
    assert not any("conditioner" in name or "language_proj" in name or "vision_tower" in name for name in names)


def test_loss_is_transformers_own(captioner):
    """Against the language model's own labels path, on the same embeddings."""
    batch = pair_batch(captioner, ["a red house", "two boats on a lake at night"])
    conditioning = captioner.embed(batch["encoder_pixels"])
    prefix = captioner.mlp(conditioning.states)
    embeds = torch.cat([prefix, captioner.llm.get_input_embeddings()(batch["input_ids"])], 1)
    labels = torch.cat([torch.full(prefix.shape[:2], IGNORED), batch["labels"]], 1)
    mask = torch.cat([torch.ones(prefix.shape[:2], dtype=torch.long), (batch["labels"] != IGNORED).long()], 1)
    expected = captioner.llm(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss
    got = captioner.caption_losses(conditioning, batch["input_ids"], batch["labels"])
    count = (batch["labels"] != IGNORED).sum()
    assert torch.allclose(got.sum() / count, expected, atol=1e-5)


def test_padding_does_not_change_the_loss(captioner):
    batch = pair_batch(captioner, ["a red house"])
    conditioning = captioner.embed(batch["encoder_pixels"])
    plain = captioner.caption_losses(conditioning, batch["input_ids"], batch["labels"])
    pad = torch.nn.functional.pad
    ids, labels = pad(batch["input_ids"], (0, 5), value=1), pad(batch["labels"], (0, 5), value=IGNORED)
    padded = captioner.caption_losses(conditioning, ids, labels)
    assert torch.allclose(plain, padded, atol=1e-4)


def test_objective_counts_tokens_and_samples(captioner):
    batch = pair_batch(captioner, ["a red house", "a lake"])
    assert CaptionObjective(captioner, 0).counts(batch) == {"caption": (batch["labels"] != IGNORED).sum()}
    both = CaptionObjective(captioner, 0, decoder_of(captioner), 3.0)
    assert both.counts(batch)["diffusion"] == 2
    assert both.loss_weights == {"caption": 1.0, "diffusion": 3.0}
    assert both(batch)["diffusion"] > 0


def test_the_published_mean_is_over_the_passes_of_the_mean_over_their_tokens(captioner):
    """Two passes with captions of different lengths: each counts alike, however many tokens it has."""
    batch = pair_batch(captioner, ["a red house", "a lake"])
    short = {**batch, "labels": batch["labels"].clone()}
    short["labels"][:, 1:] = -100
    ours, theirs = (CaptionObjective(captioner, 0, token_mean=kind).eval() for kind in ("global", "per_process"))
    with torch.no_grad():
        means = [ours(part)["caption"] / ours.counts(part)["caption"] for part in (batch, short)]
        assert theirs.counts(batch) == ours.counts(batch), "validation is over tokens"
        theirs.training = True  # the objective alone: dropout of its parts stays off
        sums = [theirs(part)["caption"] for part in (batch, short)]
        counts = [theirs.counts(part)["caption"] for part in (batch, short)]
    assert counts == [1, 1]
    assert torch.allclose(sum(sums) / sum(counts), sum(means) / 2)
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert theirs.counts(nothing)["caption"] == 0
    with torch.no_grad():
        assert theirs(nothing)["caption"] == 0


def test_saved_captioner_needs_no_other_folder(captioner, tmp_path, tiny_components):
    captioner.set_trained(["mlp", "llm", "encoder"])
    captioner.eval().save_pretrained(tmp_path)
    again = VLVCaptioner.from_pretrained(tmp_path)
    image = Image.new("RGB", (80, 60), "green")
    assert again.caption([image], num_beams=2, max_new_tokens=8) == captioner.caption([image], 2, 8)
    assert again.llm.lm_head.weight is again.llm.model.embed_tokens.weight
    for (name, value), (other_name, other) in zip(captioner.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(value, other), name
    assert str(tiny_components) not in "".join(p.read_text() for p in tmp_path.glob("tokenizer*.json"))


def test_batch_of_captions_is_each_ones_caption(captioner):
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    together = captioner.caption(images, num_beams=1, max_new_tokens=6)
    assert together == [captioner.caption([image], num_beams=1, max_new_tokens=6)[0] for image in images]


def test_auto_config_knows_the_captioner(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "VLVCaptionerConfig"


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=600),
        GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=600, n_positions=128),
    ],
)
def test_any_causal_lm(stage1, tiny_components, tmp_path, config):
    import shutil

    shutil.copytree(tiny_components / "qwen", tmp_path / "lm")
    for old in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / "lm" / old).unlink(missing_ok=True)
    tokenizer_size = len(AutoTokenizer_of(tiny_components / "qwen"))
    config.vocab_size = tokenizer_size
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "lm")
    model = build(stage1, tiny_components, tmp_path / "lm")
    batch = pair_batch(model, ["a house"])
    assert CaptionObjective(model, 0)(batch)["caption"].requires_grad
    model.save_pretrained(tmp_path / "saved")
    again = VLVCaptioner.from_pretrained(tmp_path / "saved")
    image = Image.new("RGB", (64, 64), "red")
    assert again.caption([image], num_beams=2, max_new_tokens=4) == model.caption([image], 2, 4)


def AutoTokenizer_of(folder):  # noqa: N802
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_preview_draws_with_the_stage1_it_came_from(captioner, stage1, tmp_path):
    captioner.save_pretrained(tmp_path / "captioner")
    drawer = preview_autoencoder(tmp_path / "captioner")
    expected = VLVAutoEncoder.from_pretrained(stage1)
    assert torch.equal(drawer.encoder.query_embed, expected.encoder.query_embed)


def test_preview_says_when_the_stage1_is_missing_or_another(captioner, stage1, tmp_path):
    import json

    captioner.save_pretrained(tmp_path / "captioner")
    config_file = tmp_path / "captioner" / "config.json"
    config = json.loads(config_file.read_text())
    config["origin"]["stage1"]["source"] = "/nowhere/stage1"
    config_file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"generates images through its stage-1 model, /nowhere/stage1, which"):
        preview_autoencoder(tmp_path / "captioner")
    config["origin"]["stage1"] = {"source": str(stage1), "weights_sha256": "0" * 64}
    config_file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its weights differ"):
        preview_autoencoder(tmp_path / "captioner")


def test_preview_with_own_weights(stage1, tiny_components, tmp_path):
    model = build(stage1, tiny_components, draws_with_own_weights=True)
    with torch.no_grad():
        model.encoder.query_embed += 1
    model.save_pretrained(tmp_path)
    assert torch.equal(preview_autoencoder(tmp_path).encoder.query_embed, model.encoder.query_embed)


def test_a_captioner_is_named_where_stage1_is_wanted(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a captioner .*stage-1 checkpoint is needed"):
        require_checkpoint(tmp_path, "stage1")


def test_bf16_compute_keeps_fp32_masters(stage1, tiny_components):
    model = build(stage1, tiny_components).set_dtypes(torch.bfloat16, torch.float32)
    assert model.mlp.layers[0].weight.dtype == torch.float32
    assert model.encoder.vision_tower.convs[0].conv.weight.dtype == torch.bfloat16
    image = Image.new("RGB", (64, 64), "red")
    assert isinstance(model.caption([image], num_beams=1, max_new_tokens=3)[0], str)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_captioner_loaded_in_another_format_captions(captioner, tmp_path, dtype):
    captioner.save_pretrained(tmp_path)
    again = VLVCaptioner.from_pretrained(tmp_path, dtype=dtype)
    assert {value.dtype for value in again.parameters()} == {dtype}
    assert len(again.caption([Image.new("RGB", (64, 64), "red")], num_beams=2, max_new_tokens=4)) == 1
    assert VLVCaptioner.from_pretrained(tmp_path).conditioner.text.text_encoder.dtype == torch.float32


def test_auto_model_loads_a_saved_encoder(captioner, tmp_path):
    from transformers import AutoModel

    import vlv.models  # noqa: F401  (it registers the classes)

    captioner.encoder.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    for (name, value), (other_name, other) in zip(
        captioner.encoder.named_parameters(), again.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(value, other), name
    pixels = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    captioner.eval()
    assert torch.allclose(again.eval()(pixels)["clip"], captioner.encoder(pixels)["clip"], atol=1e-6)


def test_generation_config_is_saved_and_taken(captioner, tmp_path):
    import json

    captioner.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    config = json.loads(path.read_text())
    assert (config["num_beams"], config["max_new_tokens"]) == (4, 33)
    path.write_text(json.dumps({**config, "max_new_tokens": 2}))
    ids = VLVCaptioner.from_pretrained(tmp_path).generate_ids(
        torch.zeros(1, 3, 128, 128, dtype=torch.uint8), num_beams=1
    )
    assert ids.shape[1] <= 2


def test_the_language_models_own_defaults_do_not_reach_captions(stage1, tiny_components, tmp_path):
    import json
    import shutil

    shutil.copytree(tiny_components / "qwen", tmp_path / "lm")
    path = tmp_path / "lm" / "generation_config.json"
    path.write_text(json.dumps({"repetition_penalty": 5.0, "do_sample": True, "temperature": 2.0}))
    plain, chatty = build(stage1, tiny_components), build(stage1, tiny_components, tmp_path / "lm")
    images = [Image.new("RGB", (64, 64), "red")]
    assert chatty.caption(images, num_beams=1, max_new_tokens=12) == plain.caption(images, 1, 12)


def test_both_stages_start_from_a_captioner(captioner, stage1, tiny_components, tmp_path):
    from vlv.checkpoints.initial import load_initial

    with torch.no_grad():
        captioner.mlp.layers[0].bias += 1
    captioner.save_pretrained(tmp_path)
    fresh = build(stage1, tiny_components)
    load_initial(fresh, str(tmp_path))
    for (name, value), (_, other) in zip(captioner.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(value, other), name
    autoencoder = VLVAutoEncoder.from_pretrained(stage1)
    with torch.no_grad():
        autoencoder.encoder.query_embed += 1
    load_initial(autoencoder, str(tmp_path))
    assert torch.equal(autoencoder.encoder.query_embed, captioner.encoder.query_embed)


@pytest.mark.parametrize("on", [True, False])
def test_loading_prints_no_bars_and_leaves_the_switches_alone(captioner, stage1, tmp_path, capfd, on):
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub import utils as of_hub
    from transformers.utils import logging as of_transformers

    def switch(on_before):
        for library, shown in zip((of_transformers, of_diffusers), on_before, strict=False):
            library.enable_progress_bar() if shown else library.disable_progress_bar()
        (of_hub.enable_progress_bars if on_before[2] else of_hub.disable_progress_bars)()

    def switches():
        of_libraries = [library.is_progress_bar_enabled() for library in (of_transformers, of_diffusers)]
        return [*of_libraries, not of_hub.are_progress_bars_disabled()]

    captioner.save_pretrained(tmp_path / "captioner")
    before = switches()
    try:
        switch([on] * 3)
        capfd.readouterr()
        VLVCaptioner.from_pretrained(tmp_path / "captioner")
        VLVAutoEncoder.from_pretrained(stage1)
        printed = capfd.readouterr()
        assert "%|" not in printed.err + printed.out
        assert switches() == [on] * 3
    finally:
        switch(before)


def test_the_api_captions_any_number_of_images(captioner, sample_photos):
    images = [Image.open(path) for path in sorted(sample_photos.glob("*.jpg"))[:3]]
    together = captioner.caption(images, num_beams=1, max_new_tokens=4)
    assert captioner.caption(images, num_beams=1, max_new_tokens=4, batch_size=2) == together
    assert captioner.caption([]) == []
    paths = [sample_photos / "cat.jpg", str(sample_photos / "cat.jpg")]
    from_file = captioner.caption([Image.open(paths[0]), *paths], num_beams=1, max_new_tokens=4)
    assert len(set(from_file)) == 1
    with pytest.raises(ValueError, match="a list is wanted"):
        captioner.caption(images[0])
    with pytest.raises(ValueError, match="batch_size=0 cannot be used"):
        captioner.caption(images, batch_size=0)


def test_sampled_captions_depend_on_the_image_and_its_seeds(captioner):
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    pixels = captioner.image_processor.batch(images)["encoder_pixels"]
    seeds = [[1, 2], [3, 4], [5, 6]]
    together = captioner.sample_pixels(pixels, seeds, 1.0, max_new_tokens=6)
    assert together == [captioner.sample_pixels(pixels[i : i + 1], [seeds[i]], 1.0, 6)[0] for i in range(3)]
    assert len({text for own in together for text in own}) > 3
    cold = captioner.sample_pixels(pixels, seeds, 1e-4, max_new_tokens=6)
    greedy = captioner.caption_pixels(pixels, 1, 6)
    assert cold == [[text, text] for text in greedy]


def test_a_caption_that_was_cut_ends_at_its_last_sentence(captioner, monkeypatch):
    pixels = captioner.image_processor.batch([Image.new("RGB", (64, 64), "red")] * 2)["encoder_pixels"]
    told = captioner.tokenizer(["a red house. a lake. two", "a red house. a lake"])["input_ids"]
    assert len(told[0]) > len(told[1])
    ids = torch.full((2, len(told[0])), captioner.config.pad_token_id)  # the first was cut: it has no end
    for row, known in enumerate(told):
        ids[row, : len(known)] = torch.tensor(known)
    ids[1, len(told[1])] = captioner.eos_token_id  # this one came to its end
    monkeypatch.setattr(captioner, "generate_ids", lambda *_: ids)
    whole = captioner.caption_pixels(pixels)
    cut = captioner.caption_pixels(pixels, end_at_sentence=True)
    assert whole[0].endswith("two")
    assert cut[0] == whole[0].removesuffix("two").strip()
    assert cut[1] == whole[1]
