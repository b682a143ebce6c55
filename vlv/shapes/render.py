"""Scenes become pictures: 64 px, antialiased, with a little jitter of place and size so that pictures differ."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from vlv.shapes.scene import BACKGROUNDS, COLORS, GRID, Scene

RESOLUTION = 64
CELL = RESOLUTION / GRID
EXTENT = {"small": 6.6, "large": 9.2}  # pixels from the centre to the farthest point of an unjittered shape
PLACE_JITTER = 1.0  # pixels, in each direction
SIZE_JITTER = 0.04  # share of the size; a large shape with all of it still lies within its cell
_SCALE = 4  # drawn this much larger, then averaged: the antialiasing


def render(scene: Scene, seed: int) -> Image.Image:
    """The RGB picture of a scene, `RESOLUTION` px square; `seed` fixes the jitter."""
    stream = random.Random(f"jitter {seed}")
    side = RESOLUTION * _SCALE
    picture = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(picture)
    for item in scene.items:
        radius = EXTENT[item.size] * (1 + stream.uniform(-SIZE_JITTER, SIZE_JITTER))
        x = (item.column + 0.5) * CELL + stream.uniform(-PLACE_JITTER, PLACE_JITTER)
        y = (item.row + 0.5) * CELL + stream.uniform(-PLACE_JITTER, PLACE_JITTER)
        draw_shape(draw, item.shape, x * _SCALE, y * _SCALE, radius * _SCALE, COLORS[item.color])
    return picture.reduce(_SCALE)  # box filter: coverage, as the oracle's templates have it


def draw_mask(shape: str, radius: float, dx: float, dy: float) -> Image.Image:
    """Coverage of one shape alone in a cell, in mode L, 255 where it covers all; the oracle's template.

    Args:
        dx, dy: pixels that the shape stands off the middle of the cell.
    """
    side = math.ceil(CELL)
    mask = Image.new("L", (side * _SCALE, side * _SCALE))
    centre = CELL / 2
    draw_shape(ImageDraw.Draw(mask), shape, (centre + dx) * _SCALE, (centre + dy) * _SCALE, radius * _SCALE, 255)
    return mask.reduce(_SCALE)


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, int, int] | int
) -> None:
    """Draw one shape whose farthest point is `radius` from (x, y), all in pixels of the canvas."""
    if shape == "circle":
        radius *= 0.9
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "cross":
        long, short = radius * 0.94, radius * 0.34
        draw.rectangle((x - long, y - short, x + long, y + short), fill=fill)
        draw.rectangle((x - short, y - long, x + short, y + long), fill=fill)
    else:
        draw.polygon([(x + radius * u, y + radius * v) for u, v in _OUTLINES[shape]], fill=fill)


def _star() -> list[tuple[float, float]]:
    corners = []
    for point in range(10):
        angle, reach = math.pi * point / 5, 1.0 if point % 2 == 0 else 0.42
        corners.append((reach * math.sin(angle), -reach * math.cos(angle)))
    return corners


_OUTLINES = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -0.9), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)],
    "star": _star(),
}
