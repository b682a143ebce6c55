"""A captioner without its language model: the same rows, of whole captioners and of adapters."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import new_captioner, new_stage1
from vlv import VLVCaptioner
from vlv.checkpoints.identity import CheckpointError
from vlv.models.image_rows import ImageRows


@pytest.fixture(scope="module")
def place(tiny_components, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    shutil.copytree(tiny_components, folder, dirs_exist_ok=True)
    new_stage1(folder, num_queries=4).save_pretrained(folder / "stage1")
    captioner = new_captioner(folder / "stage1", folder / "qwen", trained=["mlp", "llm"], max_caption_tokens=8)
    captioner.save_pretrained(folder / "whole")
    captioner.save_pretrained(folder / "adapter", adapter=True)
    return folder


@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_rows_are_the_captioners_prefix(place, name):
    captioner, rows = VLVCaptioner.from_pretrained(place / name), ImageRows.from_pretrained(place / name)
    side = captioner.image_processor.encoder_resolution
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(rows(pixels), captioner.prefix(captioner.embed(pixels)))
    assert rows.num_image_tokens == captioner.num_image_tokens
    assert not any(value.requires_grad for value in rows.parameters())
    own = {name for name, _ in captioner.named_parameters() if not name.startswith("llm.")}
    assert {name for name, _ in rows.named_parameters()} == own
    rows.set_dtype(torch.bfloat16)
    assert rows(pixels).dtype == torch.bfloat16


@pytest.mark.parametrize(("change", "message"), [("missing", "mlp.layers.0.bias"), ("unexpected", "encoder.other")])
def test_weights_that_do_not_fit_are_refused_by_name(place, tmp_path, change, message):
    folder = shutil.copytree(place / "whole", tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["mlp.layers.0.bias"]
    else:
        weights["encoder.other"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 weights are {change}, the first is {message}"):
        ImageRows.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captioner_goes_on_from_rows_that_were_computed_elsewhere(place, dtype):
    captioner, rows = VLVCaptioner.from_pretrained(place / "whole"), ImageRows.from_pretrained(place / "whole")
    captioner.set_dtypes(dtype, dtype)
    side = captioner.image_processor.encoder_resolution
    pixels = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    expected = captioner.caption_pixels(pixels, 2), captioner.sample_pixels(pixels, [[1, 2]] * 3, 1.0)
    for part in (captioner.encoder, captioner.conditioner):
        part.to("meta")
    found = rows.set_dtype(dtype)(pixels)
    assert (captioner.caption_pixels(found, 2), captioner.sample_pixels(found, [[1, 2]] * 3, 1.0)) == expected


def test_what_is_neither_pixels_nor_rows_is_refused(place):
    captioner = VLVCaptioner.from_pretrained(place / "whole")
    side = captioner.image_processor.encoder_resolution
    rows, width = captioner.num_image_tokens, captioner.mlp.out_width
    for wrong in (
        torch.zeros(3, side, side, dtype=torch.uint8),  # an image without its batch
        torch.zeros(2, rows + 1, width),
        torch.zeros(2, rows, width, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=rf"are neither uint8 pixels .* nor rows \[N, {rows}, {width}\]"):
            captioner.caption_pixels(wrong, 1)
