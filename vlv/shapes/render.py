"""Scenes become pictures: 96 px, antialiased, with some jitter of place, size and angle so that pictures differ."""

from __future__ import annotations

import math
import random
from functools import cache

from PIL import Image, ImageChops, ImageDraw

from vlv.shapes.scene import BACKGROUNDS, COLORS, GRID, Item, Scene

RESOLUTION = 96
CELL = RESOLUTION // GRID
EXTENT = {"small": 10.0, "large": 14.0}  # pixels from the centre to the farthest point of an unjittered shape
PLACE_JITTER = 1.2  # pixels, in each direction
SIZE_JITTER = 0.05  # share of the size; a large shape with all of it still lies within its cell
ANGLE_JITTER = 12.0  # degrees, in each direction
STROKE = 1.75  # pixels, width of an outline
STRIPE = 3.0  # pixels, height of a stripe, and of the paler one below it
PALE = 90  # coverage of a pale stripe, of 255: enough to show what the shape is
_SCALE = 4  # drawn this much larger, then averaged: the antialiasing


def render(scene: Scene, seed: int) -> Image.Image:
    """The RGB picture of a scene, `RESOLUTION` px square; `seed` fixes the jitter."""
    picture = Image.new("RGB", (RESOLUTION, RESOLUTION), BACKGROUNDS[scene.background])
    _draw_items(picture, scene, random.Random(f"jitter {seed}"))
    return picture


def render_halves(left: Scene, right: Scene, seed: int) -> Image.Image:
    """One picture of two scenes: each half has the background and the shapes of its own."""
    picture = Image.new("RGB", (RESOLUTION, RESOLUTION), BACKGROUNDS[left.background])
    picture.paste(BACKGROUNDS[right.background], (RESOLUTION // 2, 0, RESOLUTION, RESOLUTION))
    stream = random.Random(f"jitter {seed}")
    _draw_items(picture, left, stream)
    _draw_items(picture, right, stream)
    return picture


def _draw_items(picture: Image.Image, scene: Scene, stream: random.Random) -> None:
    for item in scene.items:
        radius = EXTENT[item.size] * (1 + stream.uniform(-SIZE_JITTER, SIZE_JITTER))
        dx, dy = (stream.uniform(-PLACE_JITTER, PLACE_JITTER) for _ in range(2))
        angle = stream.uniform(-ANGLE_JITTER, ANGLE_JITTER)
        mask = draw_mask(item.shape, item.texture, radius, angle, dx, dy)
        picture.paste(COLORS[item.color], corner(item), mask)


def corner(item: Item) -> tuple[int, int]:
    """The top left pixel (x, y) of an item's cell."""
    return (item.column * CELL, item.row * CELL)


def draw_mask(shape: str, texture: str, radius: float, angle: float, dx: float, dy: float) -> Image.Image:
    """Coverage of one shape in its cell, [CELL, CELL] in mode L, 255 where it covers all; also the oracle's template.

    Args:
        radius: pixels from its centre to its farthest point.
        angle: degrees, clockwise.
        dx, dy: pixels that it stands off the middle of the cell.
    """
    side = CELL * _SCALE
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    x, y = (CELL / 2 + dx) * _SCALE, (CELL / 2 + dy) * _SCALE
    cos, sin = math.cos(math.radians(angle)) * radius * _SCALE, math.sin(math.radians(angle)) * radius * _SCALE
    points = [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in _outline(shape)]
    if texture == "outlined":
        draw.polygon(points, outline=255, width=round(STROKE * _SCALE))
    else:
        draw.polygon(points, fill=255)
    if texture == "striped":
        mask = ImageChops.multiply(mask, _stripes(round(y)))
    return mask.reduce(_SCALE)  # box filter


@cache
def _stripes(middle: int) -> Image.Image:
    """Horizontal stripes, [CELL * _SCALE] square, one of them in the middle of a shape at row `middle`."""
    side, height = CELL * _SCALE, round(STRIPE * _SCALE)
    stripes = Image.new("L", (side, side), PALE)
    draw = ImageDraw.Draw(stripes)
    first = (middle - height // 2) % (2 * height) - 2 * height
    for top in range(first, side, 2 * height):
        draw.rectangle((0, top, side, top + height - 1), fill=255)
    return stripes


@cache
def _outline(shape: str) -> list[tuple[float, float]]:
    """Points of a shape whose farthest point is 1 from (0, 0); y points down."""
    points = _OUTLINES[shape]
    reach = max(math.hypot(u, v) for u, v in points)
    return [(u / reach, v / reach) for u, v in points]


def _arc(x: float, y: float, radius: float, start: float, end: float, steps: int = 24) -> list[tuple[float, float]]:
    """Points of an arc in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _star() -> list[tuple[float, float]]:
    corners = []
    for point in range(10):
        angle, reach = math.pi * point / 5, 1.0 if point % 2 == 0 else 0.42
        corners.append((reach * math.sin(angle), -reach * math.cos(angle)))
    return corners


_OUTLINES = {
    "circle": _arc(0, 0, 0.9, 0, 360, 48),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -0.9), (0.98, 0.8), (-0.98, 0.8)],
    "star": _star(),
    "diamond": [(0.0, -1.0), (0.65, 0.0), (0.0, 1.0), (-0.65, 0.0)],
    "cross": [
        (-0.34, -0.94), (0.34, -0.94), (0.34, -0.34), (0.94, -0.34), (0.94, 0.34), (0.34, 0.34),
        (0.34, 0.94), (-0.34, 0.94), (-0.34, 0.34), (-0.94, 0.34), (-0.94, -0.34), (-0.34, -0.34),
    ],
    "heart": [(0.0, 0.95), *_arc(-0.45, -0.3, 0.5, 150, 345), *_arc(0.45, -0.3, 0.5, 195, 390)],
    "moon": [*_arc(0, 0, 1.0, 50, 310, 40), *reversed(_arc(0.45, 0, 0.78, 80, 280, 30))],
    "arrow": [
        (0.0, -1.0), (0.85, -0.1), (0.32, -0.1), (0.32, 0.95), (-0.32, 0.95), (-0.32, -0.1), (-0.85, -0.1),
    ],
    "bar": [(-1.0, -0.33), (1.0, -0.33), (1.0, 0.33), (-1.0, 0.33)],
    "dome": [*_arc(0, 0.45, 1.0, 180, 360)],
    "hourglass": [(-0.75, -0.9), (0.75, -0.9), (0.15, 0.0), (0.75, 0.9), (-0.75, 0.9), (-0.15, 0.0)],
    "chevron": [(-0.95, -0.75), (0.0, 0.1), (0.95, -0.75), (0.95, -0.05), (0.0, 0.8), (-0.95, -0.05)],
    "elbow": [(-0.8, -0.9), (-0.2, -0.9), (-0.2, 0.25), (0.85, 0.25), (0.85, 0.85), (-0.8, 0.85)],
    "house": [(0.0, -1.0), (0.85, -0.15), (0.62, -0.15), (0.62, 0.85), (-0.62, 0.85), (-0.62, -0.15), (-0.85, -0.15)],
    "drop": [(0.0, -1.0), *_arc(0, 0.35, 0.62, -25, 205, 36)],
}  # fmt: skip
