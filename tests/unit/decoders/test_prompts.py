"""Texts against diffusers' own pipelines: `PromptEncoder` conditions on what `encode_prompt` gives."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.unit.decoders.pipelines import FAMILIES, FULL, SHORT, encode
from vlv.decoders import DecoderSettings, build_decoder, load_conditioner
from vlv.decoders.prompts import PromptEncoder


def test_of_one_text_encoder(tiny_components):
    folder = tiny_components / "stable-diffusion"
    prompts = PromptEncoder(folder, build_decoder(folder, DecoderSettings(resolution=64)).conditioner)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    expected, _ = pipeline.encode_prompt([SHORT, FULL], "cpu", 1, True)
    assert torch.allclose(prompts([SHORT, FULL]).states, expected, atol=1e-5)
    assert not prompts.cuts(SHORT)
    assert prompts.cuts(FULL)


@pytest.mark.parametrize("name", FAMILIES)
def test_of_several(folders, families, name):
    prompts = PromptEncoder(folders / name, families[name].decoder.conditioner)
    states, _, pooled, _ = encode(families[name].pipeline, [SHORT, FULL])
    got = prompts([SHORT, FULL])
    assert torch.allclose(got.states, states, atol=1e-5)
    assert torch.allclose(got.pooled, pooled, atol=1e-5)
    assert prompts.cuts(FULL)


def test_direct_conditioning_reads_no_prompt(tiny_components):
    folder = tiny_components / "stable-diffusion"
    with pytest.raises(ValueError, match="conditioning=direct: it has no text encoder"):
        PromptEncoder(folder, load_conditioner(folder, DecoderSettings("direct", 64)))
