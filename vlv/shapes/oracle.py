"""Exact readers of the small world: picture -> scene by template fit, description -> scene by a parser."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from vlv.shapes.describe import NUMBERS, PLACES, RELATIONS, SIZE_WORDS, holds
from vlv.shapes.render import CELL, EXTENT, RESOLUTION, SIZE_JITTER, draw_mask
from vlv.shapes.scene import BACKGROUNDS, COLORS, GRID, SHAPES, Item, Scene

# Squared difference from the background, summed over a cell, that a shape explains at least. The faintest shape
# (a small yellow star on beige) explains about five times this; noise of a decoded picture, a tenth.
_EMPTY = 100_000.0
_OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_SIDE = math.ceil(CELL)


@dataclass(frozen=True)
class Reading:
    """What the oracle saw.

    confidence: of the least certain cell, from 0 (another class fits as well) to 1.
    """

    scene: Scene
    confidence: float


def read_pictures(pictures: Sequence[Image.Image], batch_size: int = 100) -> list[Reading]:
    """Scenes of pictures; each is resized to `RESOLUTION` where it is another size."""
    readings: list[Reading] = []
    for start in range(0, len(pictures), batch_size):
        batch = [_pixels(picture) for picture in pictures[start : start + batch_size]]
        readings += _read(np.stack(batch))
    return readings


def _pixels(picture: Image.Image) -> np.ndarray:
    picture = picture.convert("RGB")
    if picture.size != (RESOLUTION, RESOLUTION):
        picture = picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


def _read(pixels: np.ndarray) -> list[Reading]:
    """Fit every colour and template to every cell of pixels [N, R, R, 3] by least squares."""
    count = len(pixels)
    grounds = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
    # The ground covers most of every picture, so the one with most pixels near it is right, shapes and noise or not.
    near = np.abs(pixels[:, :, :, None] - grounds).sum(-1) < 90  # [N, R, R, 4]
    chosen = near.sum((1, 2)).argmax(1)  # [N]
    cells = _cells(pixels - grounds[chosen][:, None, None]).reshape(count * GRID**2, _SIDE**2, 3)
    occupied = np.flatnonzero((cells**2).sum((1, 2)) > _EMPTY)
    # A template t in a colour that stands off the ground by c predicts the pixels t c. It explains
    # |x|^2 - |x - t c|^2 = 2 <x, t c> - |t|^2 |c|^2 of the cell's pixels x, for all templates in one product.
    templates = _templates()  # [kinds, K, P]
    kinds, variants, area = templates.shape
    energies = (templates**2).sum(-1)  # [kinds, K]
    flat = templates.reshape(kinds * variants, area)
    gains = np.zeros((count * GRID**2, len(COLORS), kinds), dtype=np.float32)
    for number, color in enumerate(np.array(list(COLORS.values()), dtype=np.float32)):
        contrast = (color - grounds[chosen]).repeat(GRID**2, axis=0)[occupied]  # [M, 3]
        projected = np.einsum("mpc,mc->mp", cells[occupied], contrast)  # [M, P]
        explained = 2 * (projected @ flat.T).reshape(len(occupied), kinds, variants)
        gains[occupied, number] = (explained - (contrast**2).sum(1)[:, None, None] * energies).max(-1)
    gains = gains.reshape(count, GRID, GRID, len(COLORS), kinds)
    return [_decide(gains[index], list(BACKGROUNDS)[chosen[index]]) for index in range(count)]


def _cells(pixels: np.ndarray) -> np.ndarray:
    """Cells [N, GRID, GRID, S, S, 3] of pixels [N, R, R, 3], padded at the picture's far edges."""
    # A cell is 21 1/3 px wide: each is cut out 22 px wide from its rounded start, as the templates are.
    starts = [round(number * CELL) for number in range(GRID)]
    padding = max(0, starts[-1] + _SIDE - RESOLUTION)
    padded = np.pad(pixels, ((0, 0), (0, padding), (0, padding), (0, 0)), mode="edge")
    rows = [[padded[:, y : y + _SIDE, x : x + _SIDE] for x in starts] for y in starts]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def _decide(gains: np.ndarray, background: str) -> Reading:
    """The scene of one picture's gains [GRID, GRID, colours, kinds]."""
    items, confidence = [], 1.0
    for row in range(GRID):
        for column in range(GRID):
            cell = gains[row, column]
            color, kind = np.unravel_index(cell.argmax(), cell.shape)
            first, second = np.partition(cell.ravel(), -2)[[-1, -2]]
            if first < _EMPTY:
                certainty = 1 - first / _EMPTY
            else:
                # Kinds run through the shapes of each size in turn, as `_templates` makes them.
                size, shape = divmod(int(kind), len(SHAPES))
                items.append(Item(row, column, list(EXTENT)[size], list(COLORS)[color], SHAPES[shape]))
                # A lead of a tenth over the next kind counts as certain.
                certainty = (first - max(second, _EMPTY)) / first * 10
            confidence = min(confidence, float(np.clip(certainty, 0, 1)))
    return Reading(Scene(tuple(items), background), confidence)


@cache
def _templates() -> np.ndarray:
    """Coverages [kinds, K, P] in [0, 1] of each (size, shape), at K jittered sizes and places."""

    def coverage(shape: str, radius: float, dx: float, dy: float) -> np.ndarray:
        return np.asarray(draw_mask(shape, radius, dx, dy), dtype=np.float32).ravel() / 255

    scales = (1 - SIZE_JITTER, 1.0, 1 + SIZE_JITTER)
    jitters = [(scale, dx, dy) for scale in scales for dx in _OFFSETS for dy in _OFFSETS]
    kinds = [(EXTENT[size], shape) for size in EXTENT for shape in SHAPES]
    return np.array([[coverage(shape, extent * s, dx, dy) for s, dx, dy in jitters] for extent, shape in kinds])


@dataclass(frozen=True)
class Statement:
    """What a description states of one shape; None is what it leaves open."""

    size: str | None
    color: str | None
    shape: str
    place: tuple[int, int] | None


@dataclass(frozen=True)
class Description:
    """What a description states.

    relations: ((colour, shape), relation, (colour, shape)). count: the stated number of shapes, None where none is.
    """

    statements: tuple[Statement, ...]
    background: str | None
    relations: tuple[tuple[tuple[str, str], str, tuple[str, str]], ...]
    count: int | None = None

    @property
    def scene(self) -> Scene | None:
        """The scene, where every statement and the background are complete."""
        items = []
        for item in self.statements:
            if item.size is None or item.color is None or item.place is None:
                return None
            items.append(Item(*item.place, item.size, item.color, item.shape))
        return None if self.background is None else Scene(tuple(sorted(items)), self.background)

    def miscounts(self, scene: Scene) -> bool:
        """Whether it states another number of shapes than a scene has."""
        return self.count is not None and self.count != len(scene.items)

    def false_relations(self, scene: Scene) -> int:
        """How many of the stated relations do not hold in a scene."""
        items = {item.pair: item for item in scene.items}
        return sum(
            first not in items or second not in items or not holds(items[first], relation, items[second])
            for first, relation, second in self.relations
        )


def as_description(scene: Scene) -> Description:
    """What a picture of a scene shows, in the form of a caption's reading, so that both are measured alike."""
    statements = tuple(Statement(i.size, i.color, i.shape, (i.row, i.column)) for i in scene.items)
    return Description(statements, scene.background, ())


def read_description(text: str) -> Description:
    """What a description states, sentence by sentence; words that it does not know are passed over."""
    statements, relations, background, count = [], [], None, None
    for sentence in re.split(r"[.;!?\n]", text.lower()):
        number = _COUNT.search(sentence)
        if number and count is None:
            count = NUMBERS.index(number[1])
        ground = _GROUND.search(sentence)
        if ground:
            background = background or ground[1]
            continue
        relation = _RELATION.search(sentence)
        if relation:
            relations.append(((relation[1], relation[2]), relation[3], (relation[4], relation[5])))
            continue
        named = _NAMED.search(sentence)
        if named:
            size = _SIZE_OF.get(named[1]) if named[1] else None
            statements.append(Statement(size, named[2], named[3], _place(sentence)))
    return Description(tuple(statements), background, tuple(relations), count)


def _place(sentence: str) -> tuple[int, int] | None:
    found = _PLACE.search(sentence)
    return _PLACE_OF[found[1]] if found else None


def _one_of(words: Sequence[str]) -> str:
    return "(" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
_PLACE_OF = {phrase: cell for cell, phrases in PLACES.items() for phrase in phrases}
_COLOR, _SHAPE = _one_of(list(COLORS)), _one_of(SHAPES)
_COUNT = re.compile(rf"\b{_one_of(NUMBERS)} shapes?\b")
_GROUND = re.compile(rf"\b{_one_of(list(BACKGROUNDS))} background\b")
_RELATION = re.compile(rf"\b{_COLOR} {_SHAPE} is {_one_of(RELATIONS)} the {_COLOR} {_SHAPE}\b")
_NAMED = re.compile(rf"\b(?:{_one_of(list(_SIZE_OF))} )?(?:{_COLOR} )?{_SHAPE}\b")
_PLACE = re.compile(rf"\b{_one_of(list(_PLACE_OF))}\b")
