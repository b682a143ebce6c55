from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from vlv.models.image_processor import VLVImageProcessor


@pytest.fixture
def processor():
    return VLVImageProcessor(decoder_resolution=48, encoder_resolution=96)


@pytest.mark.parametrize("size", [(60, 48), (48, 60), (100, 37), (37, 100), (48, 48), (1, 500), (2000, 1000)])
def test_shapes_for_any_size(processor, size):
    made = processor(Image.new("RGB", size, (10, 20, 30)))
    assert made["decoder_pixels"].shape == (3, 48, 48)
    assert made["encoder_pixels"].shape == (3, 96, 96)
    assert made["decoder_pixels"][:, 20, 20].tolist() == [10, 20, 30]


def test_crop_is_the_centre(processor):
    pixels = np.zeros((48, 96, 3), np.uint8)
    pixels[:, 24:72] = 255
    assert processor(Image.fromarray(pixels))["decoder_pixels"].min() == 255


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 10_000)])
def test_of_a_long_strip_the_middle_alone_is_resized(processor, size, monkeypatch):
    resized = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, to, *rest: resized.append(to) or resize(self, to, *rest))
    long = max(size)
    grey = np.zeros(long, np.uint8)
    grey[long // 2 - 40 : long // 2 + 40] = 200
    grey = np.broadcast_to(grey, (min(size), long))
    made = processor(Image.fromarray(np.ascontiguousarray(grey if size[0] == long else grey.T)))
    assert made["decoder_pixels"].shape == (3, 48, 48)
    assert made["decoder_pixels"].unique().tolist() == [200]
    assert max(max(to) for to in resized) <= 64 * 48


@pytest.mark.parametrize("size", [(64, 1), (2, 128), (100, 7)])
def test_up_to_the_limit_the_whole_image_is_resized(processor, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    scale = 48 / min(size)
    whole = image.resize((int(size[0] * scale), int(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = round((whole.width - 48) / 2), round((whole.height - 48) / 2)
    expected = np.array(whole.crop((left, top, left + 48, top + 48)))
    assert np.array_equal(processor(image)["decoder_pixels"].permute(1, 2, 0).numpy(), expected)


def test_encoder_view_is_pillows_bicubic_of_the_crop(processor):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    expected = np.array(image.resize((96, 96), Image.Resampling.BICUBIC))
    assert np.array_equal(processor(image)["encoder_pixels"].permute(1, 2, 0).numpy(), expected)


def test_view_from_the_original_keeps_its_detail():
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: gone in the decoder's crop, there in the original
    image = Image.fromarray(stripes)
    sharp = VLVImageProcessor(24, 96, encoder_view_from_original=True)(image)
    soft = VLVImageProcessor(24, 96)(image)
    assert sharp["encoder_pixels"].float().std() > 2 * soft["encoder_pixels"].float().std()
    assert (sharp["decoder_pixels"] == soft["decoder_pixels"]).all()


def test_saved_processor_loads(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert VLVImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_another_processors_file_is_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    with pytest.raises(ValueError, match="CLIPImageProcessor"):
        VLVImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((48, 48), [48, 48, 0, 0]),
        ((200, 100), [100, 200, 0, 24]),  # 96 x 48 resized: 24 columns are cut on each side
        ((100, 150), [150, 100, 12, 0]),
    ],
)
def test_it_says_where_the_decoders_pixels_come_from(size, expected):
    """As diffusers' SDXL example counts: height and width before, top and left after resizing."""
    processor = VLVImageProcessor(48, 96)
    assert processor(Image.new("RGB", size))["crop"].tolist() == expected


def test_files_are_as_good_as_images(processor, tmp_path):
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    picture.save(tmp_path / "a.png")
    given = [picture, str(tmp_path / "a.png"), tmp_path / "a.png"]
    (batch,) = processor.batches(given, 8)
    assert (batch["encoder_pixels"] == batch["encoder_pixels"][0]).all()
    assert [len(batch["decoder_pixels"]) for batch in processor.batches(given, 2)] == [2, 1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Image.new("RGB", (9, 9)), r"one image was given \(Image\) where a list is wanted: give \[image\]"),
        ("photo.jpg", r"one image was given \('photo\.jpg'\) where a list is wanted"),
        (Path("photo.jpg"), r"one image was given \('photo\.jpg'\) where a list is wanted"),
        ([Image.new("RGB", (9, 9)), 3], r"images\[1\] is of type int: give a PIL image, or the path"),
        (["absent.jpg"], r"image 'absent\.jpg' is not there"),
        (["text.jpg"], r"image 'text\.jpg' cannot be read: it is no image file"),
        (["cut.png"], r"image 'cut\.png' cannot be read: .+"),
        (["."], r"image '\.' cannot be read: .*directory"),
    ],
)
def test_what_is_no_list_of_images_is_refused_by_name(processor, tmp_path, monkeypatch, images, message):
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("no image")
    Image.effect_noise((60, 40), 90).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:900])
    with pytest.raises(ValueError, match=message):
        list(processor.batches(images, 8))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera", "page"])
@pytest.mark.parametrize(("small", "large"), [(384, 768), (256, 768), (224, 336)])
def test_the_device_makes_nearly_pillows_view(name, small, large):
    processor = VLVImageProcessor(small, large)
    image = Image.fromarray(getattr(photos, name)())
    ours, theirs = processor.of_loader(view_on_device=True)(image), processor(image)
    assert torch.equal(ours["decoder_pixels"], theirs["decoder_pixels"])
    assert torch.equal(ours["encoder_pixels"], theirs["decoder_pixels"])
    made = processor.encoder_view(ours["encoder_pixels"][None])[0]
    assert made.dtype == torch.uint8
    difference = (made.int() - theirs["encoder_pixels"].int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.002


def test_the_encoders_own_pixels_stay(processor):
    pixels = torch.randint(0, 256, (2, 3, processor.encoder_resolution, processor.encoder_resolution))
    assert processor.encoder_view(pixels) is pixels
    assert processor.of_loader(view_on_device=False) is processor


def test_a_view_of_the_original_cannot_be_made_on_the_device():
    with pytest.raises(ValueError, match=r"encoder_view=device: .* set encoder_view=loader"):
        VLVImageProcessor(8, 16, encoder_view_from_original=True).of_loader(view_on_device=True)
