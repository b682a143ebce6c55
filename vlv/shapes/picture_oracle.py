"""The exact reader of the small world's pictures: picture -> scene, and what of the picture no scene explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from PIL import Image

from vlv.shapes.render import ANGLE_JITTER, CELL, EXTENT, PLACE_JITTER, RESOLUTION, SIZE_JITTER, draw_mask
from vlv.shapes.scene import BACKGROUNDS, COLORS, GRID, SHAPES, TEXTURES, Item, Scene

# Squared difference from the background, summed over a cell, that a shape explains at least.
_EMPTY = 70_000.0
_KINDS = [(size, texture, shape) for size in EXTENT for texture in TEXTURES for shape in SHAPES]
_REFINED = 6  # pairs of kind and colour that are fitted again, finely


@dataclass(frozen=True)
class Reading:
    """What the oracle saw.

    confidence: of the least certain cell, from 0 (another class fits as well) to 1.
    """

    scene: Scene
    confidence: float


@dataclass(frozen=True)
class Templates:
    """Shapes in K variants of size, place and angle: coverages [kinds, K, P], 0 to 1; their squared sums [kinds K]."""

    coverages: np.ndarray
    energies: np.ndarray


def read_pictures(pictures: Sequence[Image.Image], batch_size: int = 100) -> list[Reading]:
    """Scenes of pictures; each is resized to `RESOLUTION` where it is another size."""
    readings: list[Reading] = []
    for start in range(0, len(pictures), batch_size):
        readings += _read(np.stack([pixels_of(picture) for picture in pictures[start : start + batch_size]]))
    return readings


def pixels_of(picture: Image.Image) -> np.ndarray:
    """fp32 [R, R, 3] in 0 to 255."""
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
    off_ground = pixels - grounds[chosen][:, None, None]
    cells = off_ground.reshape(count, GRID, CELL, GRID, CELL, 3).swapaxes(2, 3).reshape(count * GRID**2, CELL**2, 3)
    occupied = np.flatnonzero((cells**2).sum((1, 2)) > _EMPTY)
    contrasts = np.array(list(COLORS.values()), dtype=np.float32) - grounds[chosen][:, None]  # [N, colours, 3]
    contrasts = contrasts.repeat(GRID**2, axis=0)[occupied]  # [M, colours, 3]
    coarse = _gains(cells[occupied], contrasts, _coarse_templates())  # [M, colours, kinds]
    found = {int(cell): _refine(cells[cell], contrasts[index], coarse[index]) for index, cell in enumerate(occupied)}
    return [_decide(found, index, list(BACKGROUNDS)[chosen[index]]) for index in range(count)]


def _gains(cells: np.ndarray, contrasts: np.ndarray, templates: Templates) -> np.ndarray:
    """How much of cells [M, P, 3] each colour [M, colours, 3] and kind of `templates` explains; [M, colours, kinds].

    A template t in a colour that stands off the ground by c predicts the pixels t c. It explains
    |x|^2 - |x - t c|^2 = 2 <x, t c> - |t|^2 |c|^2 of the cell's pixels x.
    """
    kinds, variants, area = templates.coverages.shape
    projected = np.einsum("mpc,mkc->mkp", cells, contrasts)  # [M, colours, P]
    gains = 2 * (projected @ templates.coverages.reshape(-1, area).T)
    gains -= (contrasts**2).sum(-1)[..., None] * templates.energies
    return gains.reshape(*gains.shape[:2], kinds, variants).max(-1)


def _refine(cell: np.ndarray, contrasts: np.ndarray, coarse: np.ndarray) -> list[tuple[float, int, int]]:
    """The best pairs of colour and kind of one cell [P, 3], fitted finely: (explained, colour, kind), best first."""
    best = np.argsort(coarse, axis=None)[::-1][:_REFINED]
    fitted = []
    for color, kind in (divmod(int(place), len(_KINDS)) for place in best):
        gain = _gains(cell[None], contrasts[None, color : color + 1], _fine_templates(kind))
        fitted.append((float(gain[0, 0, 0]), color, kind))
    return sorted(fitted, reverse=True)


def _decide(found: dict[int, list[tuple[float, int, int]]], index: int, background: str) -> Reading:
    """The scene of one picture."""
    items, confidence = [], 1.0
    for row, column in product(range(GRID), range(GRID)):
        fitted = found.get(index * GRID**2 + row * GRID + column)
        if fitted is None:
            continue
        (first, color, kind), (second, _, _) = fitted[:2]
        if first < _EMPTY:
            certainty = 1 - first / _EMPTY
        else:
            size, texture, shape = _KINDS[kind]
            items.append(Item(row, column, size, texture, list(COLORS)[color], shape))
            # A lead of a tenth over the next kind counts as certain.
            certainty = (first - max(second, _EMPTY)) / first * 10
        confidence = min(confidence, float(np.clip(certainty, 0, 1)))
    return Reading(Scene(tuple(items), background), confidence)


@cache
def _coarse_templates() -> Templates:
    """Every kind at few places and angles."""
    return _templates(range(len(_KINDS)), (1.0,), (-8.0, 0.0, 8.0), (-0.7, 0.7))


@cache
def _fine_templates(kind: int) -> Templates:
    """One kind at many sizes, places and angles."""
    angles, offsets = (np.linspace(-jitter, jitter, 5).tolist() for jitter in (ANGLE_JITTER, PLACE_JITTER))
    return _templates((kind,), (1 - SIZE_JITTER, 1.0, 1 + SIZE_JITTER), angles, offsets)


def _templates(
    kinds: Sequence[int], scales: Sequence[float], angles: Sequence[float], offsets: Sequence[float]
) -> Templates:
    masks = []
    for size, texture, shape in (_KINDS[kind] for kind in kinds):
        for scale, angle, dx, dy in product(scales, angles, offsets, offsets):
            mask = draw_mask(shape, texture, EXTENT[size] * scale, angle, dx, dy)
            masks.append(np.asarray(mask, dtype=np.float32).ravel() / 255)
    coverages = np.stack(masks)
    return Templates(coverages.reshape(len(kinds), -1, CELL**2), (coverages**2).sum(-1))
