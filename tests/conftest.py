"""What every test may use: tiny components in the hub's layouts, and photos that scikit-image ships."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

CAPTIONS = {
    "astronaut.jpg": "A smiling astronaut in an orange suit stands before a flag and a model of a space shuttle.",
    "cat.jpg": "A ginger cat with green eyes looks to the side; its whiskers are white and its fur is soft.",
    "coffee.jpg": "A cup of black coffee with a spoon on its saucer stands on a dark wooden table.",
    "rocket.jpg": "A rocket stands on its launch pad at night, lit by lamps, with a tower beside it.",
}


def pytest_collection_modifyitems(items):
    """Give slow tests an hour; pyproject.toml's bound is for those of the default run."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session", autouse=True)
def private_index_cache(tmp_path_factory):
    """Keep the tests' tar indexes out of the user's cache."""
    os.environ["VLV_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_components(tmp_path_factory):
    """A folder with stable-diffusion, florence2 and qwen: random weights, tokenizers of our own captions."""
    from scripts.make_tiny_components import main

    folder = tmp_path_factory.mktemp("tiny")
    captions = folder / "captions.json"
    captions.write_text(json.dumps(CAPTIONS))
    main([str(folder), f"captions={captions}"])
    return folder


@pytest.fixture(scope="session")
def sample_photos(tmp_path_factory):
    """A folder of small JPEG photos with captions of our own in captions.json."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    pictures = {
        "astronaut.jpg": skimage.data.astronaut,
        "cat.jpg": skimage.data.chelsea,
        "coffee.jpg": skimage.data.coffee,
        "rocket.jpg": skimage.data.rocket,
    }
    for name, picture in pictures.items():
        image = Image.fromarray(picture())
        image.thumbnail((320, 320))
        image.save(folder / name, quality=90)
    (folder / "captions.json").write_text(json.dumps({name: CAPTIONS[name] for name in pictures}))
    return folder
