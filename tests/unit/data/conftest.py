"""Datasets that the data tests share; photos come from scikit-image, which ships them."""

import pytest
from PIL import Image
from skimage import data as photos

from vlv.models.image_processor import VLVImageProcessor

from .pictures import encode, picture


@pytest.fixture(scope="session")
def astronaut():
    return Image.fromarray(photos.astronaut())


@pytest.fixture(scope="session")
def coffee():
    return Image.fromarray(photos.coffee())


@pytest.fixture
def processor():
    return VLVImageProcessor(decoder_resolution=16, encoder_resolution=32)


@pytest.fixture
def folder(tmp_path):
    """Five images in two levels, and files that are no images."""
    root = tmp_path / "images"
    for number, name in enumerate(["b.png", "a.jpg", "sub/c.PNG", "sub/deep/d.webp", "e.tiff"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}[name.rpartition(".")[2].lower()]
        (root / name).write_bytes(encode(picture(number), kind))
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"no data")
    return root
