"""The published losses and gradients under each setting that makes training faster or smaller."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.data.captions import CaptionTokenizer, pad_captions
from vlv.decoders import NoiseAndTimesteps
from vlv.losses import IGNORED
from vlv.models import language_head

LOSSES, GRADIENTS = 1e-5, 1e-5
BF16_LOSSES, BF16_GRADIENTS = 1e-2, 0.2  # bf16 has 8 bits of mantissa; through all layers of random weights


@contextmanager
def plain_attention(model):
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def activations_again(model):
    model.train()  # transformers' layers compute again in training mode alone
    model.set_dropout(0.0) if hasattr(model, "set_dropout") else model.encoder.set_dropout(0.0)
    model.enable_gradient_checkpointing()
    yield


@contextmanager
def chunked_logits(model):
    # Three positions of the caption at once.
    labels = 3 * model.llm.get_output_embeddings().out_features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_head, "LOGITS_AT_ONCE", labels)
        yield


@contextmanager
def bf16(model):
    model.set_dtypes(torch.bfloat16, torch.float32)  # as the recipes: frozen weights in bf16, trained ones in fp32
    with torch.autocast("cpu", torch.bfloat16):
        yield


@contextmanager
def bf16_activations_again(model):
    with bf16(model), activations_again(model):
        yield


@contextmanager
def bf16_plain_attention(model):
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # as processes of a CPU set it
    try:
        with bf16(model), plain_attention(model):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)


def distance(got, expected):
    """Length of the difference as a share of the expected length."""
    return ((got - expected).norm() / expected.norm()).item()


STAGE1 = [nullcontext, plain_attention, activations_again, bf16, bf16_plain_attention, bf16_activations_again]


@pytest.mark.parametrize("setting", STAGE1, ids=lambda setting: setting.__name__)
def test_stage1(imported_stage1, values1, setting):
    model = VLVAutoEncoder.from_pretrained(imported_stage1)
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in values1["image_uint8"]]
    pixels = model.image_processor.batch(images)
    sampled = NoiseAndTimesteps(values1["vae.posterior_eps"], values1["unet.timesteps"], values1["noise"])
    model.zero_grad()
    with setting(model):
        loss = model(pixels["encoder_pixels"], pixels["decoder_pixels"], sampled).mean()
        loss.backward()
    rounded = "bf16" in setting.__name__
    assert distance(loss, values1["loss"].squeeze()) < (BF16_LOSSES if rounded else LOSSES)
    for got, name in (
        (model.encoder.query_embed.grad, "grad.query_embed"),
        (model.encoder.language_proj["clip"][2].bias.grad, "grad.language_proj.2.bias"),
    ):
        assert distance(got, values1[name]) < (BF16_GRADIENTS if rounded else GRADIENTS)


STAGE2 = [
    nullcontext,
    plain_attention,
    activations_again,
    chunked_logits,
    bf16,
    bf16_plain_attention,
    bf16_activations_again,
]


@pytest.mark.parametrize("setting", STAGE2, ids=lambda setting: setting.__name__)
def test_stage2(imported_stage2, values1, facts, setting):
    def gradients_and_loss(setting):
        model = VLVCaptioner.from_pretrained(imported_stage2)
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in values1["image_uint8"]]
        pixels = model.image_processor.batch(images)["encoder_pixels"]
        tokenize = CaptionTokenizer(model.tokenizer, 300, supervise_eos=False, eos_token_id=model.eos_token_id)
        captions = pad_captions([tokenize(text) for text in facts["captions"]], model.config.pad_token_id)
        model.set_trained(["mlp", "llm"])
        with setting(model):
            losses = model.caption_losses(model.embed(pixels), captions["input_ids"], captions["labels"])
            loss = losses.sum() / (captions["labels"] != IGNORED).sum()
            loss.backward()
        return loss, [value.grad for value in model.mlp.parameters()]

    loss, gradients = gradients_and_loss(setting)
    rounded = "bf16" in setting.__name__
    assert distance(loss, torch.tensor(facts["loss"])) < (BF16_LOSSES if rounded else LOSSES)
    # No gradient of it is published: those without any setting are the reference.
    for got, expected in zip(gradients, gradients_and_loss(nullcontext)[1], strict=True):
        assert distance(got, expected) < (BF16_GRADIENTS if rounded else GRADIENTS)
