"""Tiny SDXL and SD 3.5 in the hub's layouts, which the tests of the decoders share."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline

from tests.unit.decoders.pipelines import FAMILIES
from vlv.decoders import DecoderSettings, build_decoder
from vlv.testing.components import SENTENCES
from vlv.testing.decoders import write_stable_diffusion_3, write_stable_diffusion_xl


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("decoders")
    write_stable_diffusion_xl(root / "xl", list(SENTENCES))
    write_stable_diffusion_3(root / "3", list(SENTENCES))
    write_stable_diffusion_3(root / "3_large", list(SENTENCES), dual_attention=False)
    write_stable_diffusion_3(root / "3_without_t5", list(SENTENCES), with_t5=False, dual_attention=False)
    return root


@pytest.fixture(scope="session")
def families(folders):
    """Decoder and pipeline of each family, loaded once."""
    made = {}
    for name in FAMILIES:
        pipeline_class = StableDiffusionXLPipeline if name == "xl" else StableDiffusion3Pipeline
        without = {"text_encoder_3": None, "tokenizer_3": None} if name == "3_without_t5" else {}
        pipeline = pipeline_class.from_pretrained(folders / name, **without)
        pipeline.set_progress_bar_config(disable=True)
        made[name] = SimpleNamespace(
            decoder=build_decoder(folders / name, DecoderSettings(resolution=64)), pipeline=pipeline
        )
    return made


@pytest.fixture
def drawn_exactly(monkeypatch):
    """Draw with a decoder: images [B, 3, R, R] in [0, 1] before they are rounded to uint8."""

    def draw(decoder, *arguments, **settings):
        kept, decode = [], decoder.decode_latents
        with monkeypatch.context() as patched:
            patched.setattr(decoder, "decode_latents", lambda latents: kept.append(decode(latents)) or kept[-1])
            rounded = decoder.generate_images(*arguments, **settings)
        assert torch.equal(rounded, (kept[0] * 255).round().to(torch.uint8))
        return kept[0]

    return draw
