import pytest

from .stand_ins import write_image


@pytest.fixture
def images(tmp_path):
    """A folder of seven images, one of them in a sub-folder, two of the same stem."""
    folder = tmp_path / "images"
    names = ["a.png", "a.bmp", "b.png", "c.png", "dogs/a.png", "e è&<x>.png", "z.png"]
    for seed, name in enumerate(names):
        write_image(folder / name, seed)
    return folder
