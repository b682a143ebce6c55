"""The captioner by transformers' conventions: processor, forward, generate, Auto classes, pipeline, chat template."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    TextStreamer,
    pipeline,
)

from tests.models import new_captioner, new_stage1, write_captioner
from vlv import VLVCaptioner, VLVForConditionalGeneration, VLVProcessor
from vlv.checkpoints.identity import AUTO_NAME
from vlv.models.image_token import IMAGE_TOKEN
from vlv.resources import assets_folder

NEW = 8


@pytest.fixture(scope="module")
def folder(tiny_components, tmp_path_factory):
    return write_captioner(tiny_components, tmp_path_factory.mktemp("captioner"))


@pytest.fixture(scope="module")
def captioner(folder):
    return VLVCaptioner.from_pretrained(folder)


@pytest.fixture(scope="module")
def other_folder(tiny_components, tmp_path_factory):
    """Another captioner of the same shapes and tokenizer."""
    root = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    new_stage1(tiny_components).save_pretrained(root / "stage1")
    new_captioner(root / "stage1", tiny_components / "qwen").save_pretrained(root / "captioner")
    return root / "captioner"


@pytest.fixture(scope="module")
def processor(folder):
    return VLVProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def images():
    return [Image.new("RGB", size, colour) for size, colour in (((80, 60), "red"), ((64, 64), "navy"))]


def chat(image, *said):
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Describe."}]}]
    return messages + [{"role": "assistant", "content": [{"type": "text", "text": text}]} for text in said]


def test_an_image_is_as_many_placeholders_as_it_has_rows(captioner, processor, images):
    inputs = processor(images=images, return_tensors="pt")
    assert captioner.num_image_tokens == processor.num_image_tokens
    assert inputs["input_ids"].tolist() == [[processor.image_token_id] * captioner.num_image_tokens] * 2
    assert inputs["attention_mask"].min() == 1
    assert inputs["pixel_values"].dtype == torch.uint8
    assert torch.equal(inputs["pixel_values"], captioner.image_processor.batch(images)["encoder_pixels"])


@pytest.mark.parametrize("beams", [1, 3])
def test_generated_ids_are_the_language_models_own_after_the_prefix(captioner, processor, images, beams):
    inputs = processor(images=images, return_tensors="pt")
    got = captioner.generate(**inputs, num_beams=beams, max_new_tokens=NEW)
    assert torch.equal(got[:, : captioner.num_image_tokens], inputs["input_ids"])
    with torch.no_grad():
        prefix = captioner.prefix(captioner.embed(inputs["pixel_values"]))
        mask = torch.ones(prefix.shape[:2], dtype=torch.long)
        own = captioner.llm.generate(inputs_embeds=prefix, attention_mask=mask, num_beams=beams, max_new_tokens=NEW)
    assert torch.equal(got[:, captioner.num_image_tokens :], own)
    captions = processor.batch_decode(got, skip_special_tokens=True)
    assert [text.strip() for text in captions] == captioner.caption(images, num_beams=beams, max_new_tokens=NEW)


def test_several_answers_are_of_an_image_that_is_encoded_once(captioner, processor, images, monkeypatch):
    seen = []
    embed = captioner.embed
    monkeypatch.setattr(captioner, "embed", lambda pixels: seen.append(len(pixels)) or embed(pixels))
    inputs = processor(images=images, return_tensors="pt")
    torch.manual_seed(0)
    found = captioner.generate(**inputs, do_sample=True, num_beams=1, num_return_sequences=3, max_new_tokens=NEW)
    assert seen == [2]
    assert len(found) == 6
    assert len({tuple(row) for row in found[:3].tolist()}) > 1
    assert found[:, : captioner.num_image_tokens].unique().tolist() == [processor.image_token_id]


def test_what_is_generated_is_streamed_and_drafted(captioner, processor, images, capsys):
    inputs = processor(images=images[:1], return_tensors="pt")
    plain = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    assert torch.equal(captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, streamer=streamer), plain)
    shown = processor.decode(plain[0], skip_special_tokens=True)
    assert capsys.readouterr().out.strip() == shown.strip() != ""
    drafted = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, prompt_lookup_num_tokens=2)
    assert torch.equal(drafted, plain)
    penalised = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, repetition_penalty=1.1)
    assert penalised.shape[1] > captioner.num_image_tokens  # it looks every id of the prompt up
    whole = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, return_dict_in_generate=True)
    assert torch.equal(whole.sequences, plain)


def eager(assistant):
    """An assistant that drafts five tokens at once, however sure of them it is."""
    assistant.generation_config.assistant_confidence_threshold = 0.0
    assistant.generation_config.num_assistant_tokens = 5
    return assistant


def passes(captioner, monkeypatch, **call):
    """What a call of `generate` gives, and how often its language model was run for it."""
    seen = []
    forward = captioner.llm.forward
    with monkeypatch.context() as patched:
        patched.setattr(captioner.llm, "forward", lambda *args, **options: seen.append(1) or forward(*args, **options))
        return captioner.generate(**call), len(seen)


@pytest.mark.parametrize("text", [None, "a red"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_another_captioner_drafts_by_the_same_images(
    captioner, other_folder, processor, images, monkeypatch, text, penalty
):
    inputs = processor(images=images[1], text=text, return_tensors="pt")
    options = {"num_beams": 1, "max_new_tokens": 24, "repetition_penalty": penalty}
    plain = captioner.generate(**inputs, **options)
    for folder in (other_folder, captioner.name_or_path):
        assistant = eager(VLVCaptioner.from_pretrained(folder))
        read = []
        embed = assistant.embed
        monkeypatch.setattr(
            assistant, "embed", lambda pixels, embed=embed, read=read: read.append(pixels) or embed(pixels)
        )
        drafted, count = passes(captioner, monkeypatch, **inputs, **options, assistant_model=assistant)
        assert torch.equal(drafted, plain)
        assert len(read) == 1, "the image is encoded once, not for each draft"
        assert torch.equal(read[0], inputs["pixel_values"])
    new = plain.shape[1] - inputs["input_ids"].shape[1]
    assert count == -(-new // 6), "its own twin drafts what it would say: five tokens, and one of the check"


def test_an_assistant_may_have_another_number_format(captioner, other_folder, processor, images):
    inputs = processor(images=images[:1], return_tensors="pt")
    plain = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW)
    assistant = VLVCaptioner.from_pretrained(other_folder).set_dtypes(torch.bfloat16, torch.bfloat16)
    drafted = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, assistant_model=assistant)
    assert torch.equal(drafted, plain)


@pytest.mark.parametrize("text", [None, "a red"])
def test_a_language_model_drafts_by_the_text_alone(captioner, processor, images, tiny_components, monkeypatch, text):
    inputs = processor(images=images[0], text=text, return_tensors="pt")
    options = {"num_beams": 1, "max_new_tokens": 24}
    plain = captioner.generate(**inputs, **options)
    for assistant in (AutoModelForCausalLM.from_pretrained(tiny_components / "qwen"), copy.deepcopy(captioner.llm)):
        drafted, count = passes(captioner, monkeypatch, **inputs, **options, assistant_model=eager(assistant))
        assert torch.equal(drafted, plain)
        assert count <= 24
    rows = captioner.image_rows(captioner.image_processor.batch(images[:1])["encoder_pixels"])
    of_rows = captioner.generate(pixel_values=rows, **options, assistant_model=assistant)
    assert torch.equal(of_rows, captioner.generate(pixel_values=rows, **options))


def test_a_language_model_of_another_tokenizer_drafts_too(captioner, processor, images):
    inputs = processor(images=images[:1], return_tensors="pt")
    plain = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW)
    folder = assets_folder() / "tiny" / "qwen"
    other = {
        "assistant_model": AutoModelForCausalLM.from_pretrained(folder),
        "assistant_tokenizer": AutoTokenizer.from_pretrained(folder),
        "tokenizer": processor.tokenizer,
    }
    assert torch.equal(captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, **other), plain)


def test_an_assistant_that_cannot_draft_is_refused(captioner, processor, images, tiny_components, tmp_path):
    inputs = processor(images=images[:1], return_tensors="pt")
    new_stage1(tiny_components, num_queries=6).save_pretrained(tmp_path)
    fewer = new_captioner(tmp_path, tiny_components / "qwen")
    for call, match in (
        ({**inputs, "assistant_model": fewer}, "assistant_model has 6 rows an image and .* this captioner 12 and"),
        (
            {"pixel_values": captioner.image_rows(inputs["pixel_values"]), "assistant_model": captioner},
            "rows of this one: give pixels",
        ),
        ({**inputs, "assistant_early_exit": 1}, "assistant_early_exit=1: a captioner has no early exit"),
        (
            {**processor(images=images, return_tensors="pt"), "assistant_model": captioner},
            "only supported for batch_size = 1",
        ),
    ):
        with pytest.raises(ValueError, match=match) as failure:
            captioner.generate(**call, num_beams=1, max_new_tokens=NEW)
        assert "\n" not in str(failure.value)


def test_a_cache_that_is_given_is_the_language_models(captioner, processor, images):
    inputs = processor(images=images[:1], return_tensors="pt")
    plain = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW)
    cache = DynamicCache(config=captioner.config.text_config)
    given = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW, past_key_values=cache)
    assert torch.equal(given, plain)
    assert cache.get_seq_length() == plain.shape[1] - 1


def test_the_loss_of_forward_is_stage_2s(captioner, processor, images):
    texts = ["a red house", "two boats on a lake at night"]
    inputs = processor(images=images, text=texts, padding_side="right", return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[labels == processor.image_token_id] = -100
    with torch.no_grad():
        loss = captioner(**inputs, labels=labels).loss
        rows = captioner.num_image_tokens
        conditioning = captioner.embed(inputs["pixel_values"])
        known = inputs["input_ids"][:, rows:]
        own = captioner.caption_losses(conditioning, known, labels[:, rows:]).sum() / (labels != -100).sum()
    assert torch.allclose(loss, own, rtol=1e-5)


def test_a_caption_goes_on_from_the_text_that_is_given(captioner, processor, images):
    """Texts of different lengths, so that one is padded, give what each gives alone."""
    texts = ["a red", "two boats on a"]
    together = processor(images=images, text=texts, return_tensors="pt")
    assert together["attention_mask"][0, 0] == 0, "the shorter one is padded on the left"
    found = captioner.generate(**together, num_beams=1, max_new_tokens=NEW)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        inputs = processor(images=image, text=text, return_tensors="pt")
        alone = captioner.generate(**inputs, num_beams=1, max_new_tokens=NEW)
        assert processor.decode(alone[0]) == processor.decode(found[place]).replace(processor.tokenizer.pad_token, "")


def test_the_auto_classes_and_the_pipeline_know_it(folder, captioner, images):
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is VLVForConditionalGeneration is VLVCaptioner
    assert type(processor) is VLVProcessor
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["VLVForConditionalGeneration"]
    expected = captioner.caption(images, num_beams=1, max_new_tokens=NEW)
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    options = {"generate_kwargs": {"num_beams": 1, "max_new_tokens": NEW}, "return_full_text": False}
    plain = ask(images=images, text=["", ""], **options)
    said = ask(text=[chat(image) for image in images], **options)
    for found in (plain, said):
        # The pipeline of transformers 5.6 leaves the blank of the first word, that of 5.24 does not.
        assert [
            (answer[0] if isinstance(answer, list) else answer)["generated_text"].strip() for answer in found
        ] == expected


def test_a_chat_is_the_image_and_what_the_assistant_said(processor, images):
    asked = processor.apply_chat_template(chat(images[0]), add_generation_prompt=True)
    assert asked == IMAGE_TOKEN, "instructions are not for a captioner"
    told = processor.apply_chat_template(chat(images[0], "a red house"))
    assert told == f"{IMAGE_TOKEN}a red house{processor.tokenizer.eos_token}"
    begun = processor.apply_chat_template(chat(images[0], "a red"), continue_final_message=True)
    assert begun == f"{IMAGE_TOKEN}a red"
    ids = processor.apply_chat_template(chat(images[0]), tokenize=True, return_dict=True, return_tensors="pt")
    assert ids["input_ids"].shape == (1, processor.num_image_tokens)
    assert ids["pixel_values"].shape[0] == 1


def test_images_come_in_many_forms(processor, images, tmp_path):
    images[0].save(tmp_path / "red.png")
    expected = processor(images=images[0], return_tensors="pt")["pixel_values"]
    tensor = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 60, 80)
    for given in (tmp_path / "red.png", str(tmp_path / "red.png"), [images[0]], [[images[0]]], tensor, tensor.numpy()):
        assert torch.equal(processor(images=given, return_tensors="pt")["pixel_values"], expected)


def test_wrong_calls_are_said(captioner, processor, images):
    inputs = processor(images=images, return_tensors="pt")
    with pytest.raises(ValueError, match="placeholders for 1 images of"):
        captioner.generate(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"][:1])
    with pytest.raises(ValueError, match="pixel_values is not given"):
        captioner.generate(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="give pixel_values"):
        captioner.generate()
    with pytest.raises(ValueError, match="give images, or text"):
        processor(images=[])
    with pytest.raises(ValueError, match=r"2 placeholders .* for 1 images"):
        processor(images=images[0], text=IMAGE_TOKEN * 2)
    with pytest.raises(ValueError, match="is not there"):
        processor(images="nowhere.jpg")


def test_a_processor_is_saved_beside_the_captioner(captioner, processor, images, tmp_path):
    captioner.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, loaded = VLVProcessor.from_pretrained(tmp_path), VLVCaptioner.from_pretrained(tmp_path)
    assert again.num_image_tokens == processor.num_image_tokens
    assert again.image_token_id == loaded.config.image_token_id == processor.image_token_id
    inputs = again(images=images, return_tensors="pt")
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=NEW), captioner.generate(**inputs, max_new_tokens=NEW))
    alone = tmp_path / "alone"
    processor.save_pretrained(alone)
    assert VLVProcessor.from_pretrained(alone).num_image_tokens == processor.num_image_tokens


def test_a_captioner_of_before_the_placeholder_is_kept_loads(folder, captioner, images, tmp_path):
    captioner.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("image_token_id") == captioner.config.image_token_id
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["VLVCaptioner"]}))
    again = VLVCaptioner.from_pretrained(tmp_path)
    assert again.caption(images, max_new_tokens=NEW) == captioner.caption(images, max_new_tokens=NEW)


UNAWARE = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline
folder, again = sys.argv[1:]
assert not any(name.startswith("vlv") for name in sys.modules)
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
describe = pipeline("image-text-to-text", folder, trust_remote_code=True)
print(*(type(found).__name__ for found in (processor, model, describe)))
model.save_pretrained(again)
"""


def test_a_program_that_does_not_know_the_package_finds_the_classes(folder, tmp_path):
    """As the workers of CaptionFlow, which load the processor before anything of vLLM, and so of the plugin."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    call = [sys.executable, "-c", UNAWARE, str(folder), str(tmp_path / "again")]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["VLVProcessor", "VLVForConditionalGeneration", "ImageTextToTextPipeline"]
    assert [path.name for path in (tmp_path / "again").glob("*.py")] == [AUTO_NAME]
    kept = assets_folder() / "tiny" / "trained" / "captioner"
    assert {(place / AUTO_NAME).read_bytes() for place in (kept, tmp_path / "again")} == {
        (folder / AUTO_NAME).read_bytes()
    }
    names = [
        json.loads((place / "config.json").read_text())["auto_map"] for place in (kept, folder, tmp_path / "again")
    ]
    assert names[0] == names[1] == names[2]
