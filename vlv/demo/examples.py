"""Example pictures of the page."""

from __future__ import annotations

from pathlib import Path

from vlv.data import find_images
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene


def find_examples(place: str, count: int) -> list[Path]:
    """The first images of a folder or glob.

    Raises:
        ValueError: there are none.
    """
    root, names = find_images(place)
    return [Path(root) / name for name in names[:count]]


def shape_examples(folder: Path, count: int) -> list[Path]:
    """Pictures of the small world's first test scenes, which no stage has seen, written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scene_{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        render(make_scene("test", number), number).save(path)
    return paths
