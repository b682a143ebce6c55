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
    write_stable_diffusion_3(root / "3_without_t5", list(SENTENCES), with_t5=False)
    return root
