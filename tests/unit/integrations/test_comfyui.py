"""The nodes by ComfyUI's interface: declared inputs are the function's, and outputs are of the declared types."""

import importlib.util
import inspect
from pathlib import Path

import pytest
import torch

from vlv import VLVCaptioner
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

ROOT = Path(__file__).resolve().parents[3]
TRAINED = assets_folder() / "tiny" / "trained"


@pytest.fixture(scope="module")
def nodes():
    """As ComfyUI loads a folder of custom nodes: by its path, under a name of its own."""
    place = ROOT / "integrations" / "comfyui" / "__init__.py"
    spec = importlib.util.spec_from_file_location("comfyui_vlv", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures():
    return [render(make_scene("test", number), number) for number in range(2)]


@pytest.fixture(scope="module")
def images(pictures):
    return torch.stack([torch.tensor(list(p.getdata())).view(p.height, p.width, 3) for p in pictures]).float() / 255


def test_every_node_declares_what_its_function_takes(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        function = getattr(node, node.FUNCTION)
        declared = node.INPUT_TYPES()["required"]
        assert list(declared) == list(inspect.signature(function).parameters)[1:]
        assert all(isinstance(kind[0], str) for kind in declared.values())
        assert isinstance(node.RETURN_TYPES, tuple)


def test_captions_are_the_captioners_own(nodes, images, pictures):
    (captioner,) = nodes.LoadCaptioner().load(str(TRAINED / "captioner"))
    (found,) = nodes.Caption().caption(captioner, images, 1, 100, 0.0, 0, "sks, ")
    own = VLVCaptioner.from_pretrained(TRAINED / "captioner").caption(pictures, num_beams=1, max_new_tokens=100)
    assert found == ["sks, " + text for text in own]
    sampled = [nodes.Caption().caption(captioner, images, 1, 100, 1.0, 5, "")[0] for _ in range(2)]
    assert sampled[0] == sampled[1]


def test_pictures_come_back_as_comfyuis_images(nodes, images):
    (stage1,) = nodes.LoadAutoEncoder().load(str(TRAINED / "stage1"))
    (drawn,) = nodes.Reconstruct().reconstruct(stage1, images, 1.5, 5, 3)
    assert drawn.shape == (2, 96, 96, 3)
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < drawn.max() <= 1
