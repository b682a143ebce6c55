"""Tiny SDXL and SD 3.5 in the hub's layouts, which the tests of the decoders share."""

import pytest
import torch

from vlv.models.tiny_components import SENTENCES
from vlv.models.tiny_decoders import write_stable_diffusion_3, write_stable_diffusion_xl


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("decoders")
    write_stable_diffusion_xl(root / "xl", list(SENTENCES))
    write_stable_diffusion_3(root / "3", list(SENTENCES))
    write_stable_diffusion_3(root / "3_without_t5", list(SENTENCES), with_t5=False, dual_attention=False)
    return root


@pytest.fixture
def drawn_exactly(monkeypatch):
    """Draw with a decoder: images [B, 3, R, R] in [0, 1] before they are rounded to uint8."""

    def draw(decoder, *arguments, **settings):
        kept, decode = [], decoder.decode_latents
        with monkeypatch.context() as patched:
            patched.setattr(decoder, "decode_latents", lambda latents: kept.append(decode(latents)) or kept[-1])
            rounded = decoder.draw_images(*arguments, **settings)
        assert torch.equal(rounded, (kept[0] * 255).round().to(torch.uint8))
        return kept[0]

    return draw
