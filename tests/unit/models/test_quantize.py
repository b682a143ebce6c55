"""Captions by a language model whose weights have 8 or 4 bits."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from tests.models import write_captioner
from vlv.config import CaptionConfig, ServeConfig
from vlv.models import load_captioner
from vlv.settings import ConfigError
from vlv.settings.loading import load_config

PACKAGES = {"int8": "torchao", "int4": "bitsandbytes"}
# Of the logits, relative to their norm: half a step of 8 bits is 1/254 of a row's largest weight, of 4 bits about 1/15.
NEAR = {"int8": 0.03, "int4": 0.3}


@pytest.fixture(scope="module")
def folder(tiny_components, tmp_path_factory):
    return write_captioner(tiny_components, tmp_path_factory.mktemp("quantize"))


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=generator)


def bytes_of(module):
    """Memory of a module's parameters, inside the wrappers of quantised ones too."""
    total = 0
    for value in module.parameters():
        names = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else []
        total += sum(getattr(value, name).nbytes for name in names) or value.nbytes
        state = getattr(value, "quant_state", None)
        total += 0 if state is None else state.absmax.nbytes
    return total


def logits(captioner, pixels):
    ids = torch.tensor([[5, 6, 7]] * len(pixels))
    images = torch.full((len(pixels), captioner.num_image_tokens), captioner.config.image_token_id)
    mixed = captioner.compute_dtype != torch.float32
    with torch.no_grad(), torch.autocast("cpu", captioner.compute_dtype, enabled=mixed):
        return captioner(input_ids=torch.cat([images, ids], 1), pixel_values=pixels).logits.float()


@pytest.mark.parametrize("quantize", PACKAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantised_captioner_is_near_and_smaller(folder, pixels, quantize, dtype):
    pytest.importorskip(PACKAGES[quantize])
    plain = load_captioner(folder, dtype)
    small = load_captioner(folder, dtype, quantize=quantize)
    layers = small.llm.model.layers
    share = {"int8": 0.6, "int4": 0.4}[quantize] * (1 if dtype == torch.bfloat16 else 0.5)
    assert bytes_of(layers) < share * bytes_of(plain.llm.model.layers)
    expected, got = logits(plain, pixels), logits(small, pixels)
    near = (got - expected).norm() / expected.norm()
    assert 0 < near < NEAR[quantize]
    for part in ("encoder", "conditioner", "mlp"):
        theirs, ours = (getattr(model, part).state_dict() for model in (plain, small))
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    heads = [model.get_output_embeddings() for model in (plain, small)]
    assert type(heads[1]) is nn.Linear
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert len(small.caption_pixels(pixels, num_beams=2, max_new_tokens=6)) == len(pixels)


@pytest.mark.parametrize("quantize", PACKAGES)
def test_a_quantised_adapter(folder, tiny_components, pixels, tmp_path, quantize):
    """Its weights come from its bases, not from its file."""
    pytest.importorskip(PACKAGES[quantize])
    load_captioner(folder).save_pretrained(tmp_path / "adapter", adapter=True)
    whole, adapter = (load_captioner(place, quantize=quantize) for place in (folder, tmp_path / "adapter"))
    assert torch.equal(logits(whole, pixels), logits(adapter, pixels))


@pytest.mark.parametrize("quantize", PACKAGES)
def test_captions_of_a_run_have_the_same_form(folder, tmp_path, quantize):
    pytest.importorskip(PACKAGES[quantize])
    from vlv.recipes.caption import run

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos/a.png")
    for name, value in (("plain", None), ("small", quantize)):
        run(
            CaptionConfig(
                image_path=str(tmp_path / "photos"), ckpt_dir=str(folder), output_path=str(tmp_path / f"{name}.json"),
                quantize=value, num_beams=1, max_new_tokens=4, num_workers=0,
            )
        )  # fmt: skip
    plain, small = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "small"))
    assert plain.keys() == small.keys() == {"a.png"}
    assert isinstance(small["a.png"], str)


def test_what_cannot_be_quantised_is_refused(folder, monkeypatch):
    with pytest.raises(ValueError, match="quantize='int3' cannot be used: give null, int8 or int4"):
        load_captioner(folder, quantize="int3")
    from vlv.cli import missing

    monkeypatch.setattr("vlv.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantize=int8 needs the package torchao: pip install 'vlv\[quant\]'"):
        load_captioner(folder, quantize="int8")
    with pytest.raises(ValueError, match=r"quantize=int4 needs the package bitsandbytes: pip install 'vlv\[quant\]'"):
        load_captioner(folder, quantize="int4")
    with pytest.raises(ConfigError, match=r"quantize=int4 needs the packages torchao, bitsandbytes: pip install"):
        missing.check_packages(CaptionConfig(quantize="int4"), "quantize")
    missing.check_packages(CaptionConfig(), "quantize")


@pytest.mark.parametrize(("config", "given"), [(CaptionConfig, []), (ServeConfig, ["ckpt_dir=x"])])
def test_an_unknown_format_is_refused_by_the_settings(config, given):
    with pytest.raises(ConfigError, match="quantize=int3 cannot be used: give one of int8, int4, or null"):
        load_config(config, None, [*given, "quantize=int3"])
