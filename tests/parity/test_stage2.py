"""Stage 2 against what the published implementation computed; it pads to 300 and has no EOS."""

import pytest
import torch
from transformers import GenerationConfig

from vlv import VLVCaptioner
from vlv.data.captions import CaptionTokenizer, pad_captions
from vlv.losses import IGNORED

ACTIVATIONS, LOSSES = 5e-5, 1e-5


@pytest.fixture(scope="module")
def captioner(imported_stage2):
    return VLVCaptioner.from_pretrained(imported_stage2)


@pytest.fixture(scope="module")
def conditioning(captioner, values1):
    from PIL import Image

    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in values1["image_uint8"]]
    return captioner.embed(captioner.image_processor.batch(images)["encoder_pixels"])


@pytest.fixture(scope="module")
def captions(captioner, facts):
    tokenize = CaptionTokenizer(captioner.tokenizer, 300, supervise_eos=False, eos_token_id=captioner.eos_token_id)
    ids = [tokenize(text) for text in facts["captions"]]
    assert ids == facts["caption_ids"]
    return pad_captions(ids, captioner.config.pad_token_id)


def distance(got, expected):
    assert got.shape == expected.shape
    return (got - expected).abs().max().item()


def test_conditioning_and_prefix(captioner, conditioning, values2):
    assert distance(conditioning.states, values2["clip_text_embeds"]) < ACTIVATIONS
    assert distance(captioner.mlp(conditioning.states), values2["prefix_embeds(mlp out)"]) < ACTIVATIONS


def test_inputs_and_labels_at_real_positions(captioner, conditioning, captions, values2):
    queries, length = conditioning.states.shape[1], captions["input_ids"].shape[1]
    embeds = captioner.llm.get_input_embeddings()(captions["input_ids"])
    real = captions["attention_mask"].bool()
    expected = values2["qwen.inputs_embeds"][:, queries : queries + length]
    assert distance(embeds[real], expected[real]) < ACTIVATIONS
    labels = values2["qwen.labels"]
    assert (labels[:, :queries] == IGNORED).all()
    assert torch.equal(captions["labels"], labels[:, queries : queries + length])
    assert (labels[:, queries + length :] == IGNORED).all()


def test_loss(captioner, conditioning, captions, facts):
    total = captioner(conditioning, captions["input_ids"], captions["attention_mask"], captions["labels"])
    loss = total / (captions["labels"] != IGNORED).sum()
    assert abs(loss.item() - facts["loss"]) < LOSSES
    assert abs(loss.item() - 6.499969) < LOSSES


def test_bf16_loss_is_near(imported_stage2, conditioning, captions, facts):
    captioner = VLVCaptioner.from_pretrained(imported_stage2).to(torch.bfloat16)
    states = conditioning._replace(states=conditioning.states.to(torch.bfloat16))
    total = captioner(states, captions["input_ids"], captions["attention_mask"], captions["labels"])
    loss = total / (captions["labels"] != IGNORED).sum()
    assert abs(loss.item() - facts["loss_bf16"]) < 0.05


@pytest.mark.parametrize(
    ("beams", "with_eos", "name"),
    [
        (1, False, "gen.greedy_ids"),
        (4, False, "gen.beam4_ids"),
        (1, True, "gen.greedy_eos_ids"),
        (4, True, "gen.beam4_eos_ids"),
    ],
)
def test_generated_ids_are_exact(captioner, conditioning, values2, facts, beams, with_eos, name):
    prefix = captioner.mlp(conditioning.states)
    ids = captioner.llm.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
        generation_config=GenerationConfig(
            num_beams=beams,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=facts["eos_case_id"] if with_eos else captioner.eos_token_id,
            pad_token_id=facts["eos_case_id"] if with_eos else captioner.config.pad_token_id,
        ),
    )
    assert torch.equal(ids, values2[name])
