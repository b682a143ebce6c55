"""What a picture of the small world holds: one to four shapes on a 3x3 grid, a function of a seed."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from typing import Literal

GRID = 3
MAX_OBJECTS = 4
SHAPES = (
    "circle", "square", "triangle", "star", "diamond", "cross", "heart", "moon",
    "arrow", "bar", "dome", "hourglass", "chevron", "elbow", "house", "drop",
)  # fmt: skip
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "outlined")
COLORS = {
    "red": (220, 30, 35),
    "orange": (250, 135, 20),
    "yellow": (250, 225, 40),
    "lime": (150, 225, 50),
    "green": (25, 140, 60),
    "teal": (0, 115, 120),
    "cyan": (65, 205, 230),
    "blue": (35, 85, 225),
    "navy": (25, 20, 110),
    "purple": (120, 40, 170),
    "lavender": (185, 160, 245),
    "magenta": (225, 30, 170),
    "pink": (250, 150, 190),
    "maroon": (110, 10, 40),
    "brown": (140, 80, 40),
    "olive": (115, 140, 25),
}
BACKGROUNDS = {"white": (248, 248, 248), "gray": (140, 140, 140), "black": (10, 10, 10), "beige": (225, 205, 165)}
# Pairs of colour and shape, 15 % of all, that VLV's two stages never train on. The components know every one. Of the
# first hundred seeds this one spreads them best: each colour and each shape is in one to four of them.
HELD_OUT_PAIRS = frozenset(
    random.Random("held-out pairs 79").sample([(color, shape) for color in COLORS for shape in SHAPES], 38)
)

Split = Literal["train", "val", "test", "unseen"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "unseen")
# Shares, in hundredths, of the hash of a scene's content: so that no scene is in two splits, whatever its number.
_BUCKETS = {"train": range(90), "val": range(90, 95), "test": range(95, 100), "unseen": range(95, 100)}


@dataclass(frozen=True, order=True)
class Item:
    """One shape: where it stands and what it looks like. Rows and columns count from the top left."""

    row: int
    column: int
    size: str
    texture: str
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

    The splits share no scene. train, val and test hold no pair of `HELD_OUT_PAIRS`; all items of `unseen` do.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    stream = random.Random(f"{split} {number}")  # seeded by text, which Python hashes alike in every process
    pairs = _HELD_OUT if split == "unseen" else _SEEN
    while True:
        scene = _compose(stream, stream.randint(1, MAX_OBJECTS), pairs)
        if _belongs(scene, split):
            return scene


def make_component_scene(number: int, most: int = MAX_OBJECTS) -> Scene:
    """A scene for the training of the components: one to `most` shapes, of all pairs of colour and shape.

    None is a scene of `val`, `test` or `unseen`.
    """
    stream = random.Random(f"components {most} {number}")
    while True:
        scene = _compose(stream, stream.randint(1, most), _ALL)
        if _belongs(scene, "train"):
            return scene


def make_halves(number: int) -> tuple[Scene, Scene]:
    """Two scenes, of all pairs, for one picture: in its left column, and in its right one; two or three shapes in all.

    More would not fit into one text of 77 tokens. Neither is a scene of `val`, `test` or `unseen`.
    """
    stream = random.Random(f"halves {number}")
    while True:
        counts = stream.choice(((1, 1), (1, 2), (2, 1)))
        columns = ((0,), (GRID - 1,))
        left, right = (_compose(stream, count, _ALL, column) for count, column in zip(counts, columns, strict=True))
        pairs = {item.pair for item in left.items + right.items}
        if len(pairs) == len(left.items + right.items) and _belongs(left, "train") and _belongs(right, "train"):
            return left, right


def recolor(scene: Scene, number: int) -> Scene:
    """The same shapes in other colours, each another than before; picked by `number`.

    None is a scene of `val`, `test` or `unseen`.
    """
    stream = random.Random(f"recolor {number}")
    while True:
        colors = [stream.choice([color for color in COLORS if color != item.color]) for item in scene.items]
        items = tuple(replace(item, color=color) for item, color in zip(scene.items, colors, strict=True))
        recolored = Scene(items, scene.background)
        if len({item.pair for item in items}) == len(items) and _belongs(recolored, "train"):
            return recolored


def _belongs(scene: Scene, split: Split) -> bool:
    # By content, not by number: scenes repeat, and one must be in the same split each time. Python's own hash is
    # salted anew in each process.
    return zlib.crc32(repr(scene).encode()) % 100 in _BUCKETS[split]


def _compose(
    stream: random.Random, count: int, allowed: list[tuple[str, str]], columns: tuple[int, ...] = tuple(range(GRID))
) -> Scene:
    cells = stream.sample([(row, column) for row in range(GRID) for column in columns], count)
    # No two items of a scene have the same colour and shape: by these a relation names them.
    pairs = stream.sample(allowed, count)
    items = [
        Item(*cell, stream.choice(SIZES), stream.choice(TEXTURES), *pair)
        for cell, pair in zip(cells, pairs, strict=True)
    ]
    return Scene(tuple(sorted(items)), stream.choice(tuple(BACKGROUNDS)))


_ALL = [(color, shape) for color in COLORS for shape in SHAPES]
_HELD_OUT = sorted(HELD_OUT_PAIRS)
_SEEN = [pair for pair in _ALL if pair not in HELD_OUT_PAIRS]
