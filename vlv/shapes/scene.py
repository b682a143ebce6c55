"""What a picture of the small world holds: one to four shapes on a 3x3 grid, a function of a seed."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from typing import Literal

GRID = 3
MAX_OBJECTS = 4
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
SIZES = ("small", "large")
COLORS = {
    "red": (214, 40, 40),
    "orange": (247, 140, 28),
    "yellow": (250, 220, 50),
    "green": (42, 157, 66),
    "cyan": (60, 200, 225),
    "blue": (38, 70, 210),
    "purple": (128, 45, 175),
    "pink": (250, 130, 195),
}
BACKGROUNDS = {"white": (248, 248, 248), "gray": (128, 128, 128), "black": (16, 16, 16), "beige": (222, 200, 160)}
# No training of any kind sees these pairs; each shape and each colour is seen in other pairs.
HELD_OUT_PAIRS = frozenset(
    {
        ("orange", "circle"),
        ("purple", "square"),
        ("cyan", "triangle"),
        ("red", "star"),
        ("green", "diamond"),
        ("yellow", "cross"),
    }
)

Split = Literal["train", "val", "test", "unseen"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "unseen")
# Shares, in hundredths, of the hash of a scene's content: so that no scene is in two splits, whatever its number.
_BUCKETS = {"train": range(90), "val": range(90, 95), "test": range(95, 100)}


@dataclass(frozen=True, order=True)
class Item:
    """One shape: where it stands and what it looks like. Rows and columns count from the top left."""

    row: int
    column: int
    size: str
    color: str
    shape: str

    @property
    def pair(self) -> tuple[str, str]:
        """(colour, shape), by which relations name it; no other item of the scene has the same."""
        return (self.color, self.shape)


@dataclass(frozen=True)
class Scene:
    """The items in reading order (by row, then column), and the background's colour."""

    items: tuple[Item, ...]
    background: str


def make_scene(split: Split, number: int) -> Scene:
    """The scene with this number of a split: always the same one.

    The splits train, val and test share no scene and hold no pair of `HELD_OUT_PAIRS`; all items of `unseen` do.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    stream = random.Random(f"{split} {number}")  # seeded by text, which Python hashes alike in every process
    while True:
        scene = _draw(stream, unseen=split == "unseen")
        if split == "unseen" or _belongs(scene, split):
            return scene


def make_crowded_scene(number: int) -> Scene:
    """A scene of one to nine shapes without held-out pairs, for training that needs no description.

    None is a scene of `val` or `test`.
    """
    stream = random.Random(f"crowded {number}")
    while True:
        scene = _compose(stream, stream.randint(1, GRID * GRID), _SEEN)
        if _belongs(scene, "train"):
            return scene


def recolor(scene: Scene, number: int) -> Scene:
    """The same shapes in other colours, each another than before, without held-out pairs; picked by `number`.

    None is a scene of `val` or `test`.
    """
    stream = random.Random(f"recolor {number}")
    while True:
        colors = [
            stream.choice([c for c in COLORS if c != item.color and (c, item.shape) not in HELD_OUT_PAIRS])
            for item in scene.items
        ]
        items = tuple(replace(item, color=color) for item, color in zip(scene.items, colors, strict=True))
        recolored = Scene(items, scene.background)
        if len({item.pair for item in items}) == len(items) and _belongs(recolored, "train"):
            return recolored


def _belongs(scene: Scene, split: Split) -> bool:
    # By content, not by number: scenes repeat, and one must be in the same split each time. Python's own hash is
    # salted anew in each process.
    return zlib.crc32(repr(scene).encode()) % 100 in _BUCKETS[split]


def _draw(stream: random.Random, unseen: bool) -> Scene:
    return _compose(stream, stream.randint(1, MAX_OBJECTS), _HELD_OUT if unseen else _SEEN)


def _compose(stream: random.Random, count: int, allowed: list[tuple[str, str]]) -> Scene:
    cells = stream.sample(range(GRID * GRID), count)
    # No two items of a scene have the same colour and shape: by these a relation names them.
    pairs = stream.sample(allowed, count)
    items = [Item(*divmod(cell, GRID), stream.choice(SIZES), *pair) for cell, pair in zip(cells, pairs, strict=True)]
    return Scene(tuple(sorted(items)), stream.choice(tuple(BACKGROUNDS)))


_HELD_OUT = sorted(HELD_OUT_PAIRS)
_SEEN = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in HELD_OUT_PAIRS]
