"""What several pictures have: mountains, clouds, trees and other plants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import ImageDraw

from scripts.sample_pictures.canvas import Canvas, Point, Shape, box, ellipse, ground, polygon, smooth, stroke


def skyline(rng: np.random.Generator, peaks: Sequence[Point], roughness: float) -> list[Point]:
    """Straight flanks between peaks and valleys, broken by steps of about `roughness` pixels."""
    nodes = np.array(peaks, dtype=float)
    x = np.linspace(nodes[0, 0], nodes[-1, 0], 320)
    y = np.interp(x, nodes[:, 0], nodes[:, 1])
    for cells, size in ((40, 1.0), (110, 0.5)):
        y += roughness * size * np.interp(x, np.linspace(x[0], x[-1], cells), rng.uniform(-1, 1, cells))
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def snow_caps(
    canvas: Canvas, rng: np.random.Generator, line: Sequence[Point], bottom: float, limit: float, colour: str
) -> None:
    """Snow on what rises above y=`limit`, with a ragged lower edge and the right flanks in shade."""
    body = ground(line, bottom)
    edge = [(x, limit - 14 + rng.uniform(-9, 9)) for x, _ in [*line[::5], line[-1]]]
    snow = polygon((line[0][0], 0), (line[-1][0], 0), *reversed(edge))
    canvas.paint(colour, snow, within=[body])
    tops = [line[n] for n in range(8, len(line) - 8) if line[n][1] == min(y for _, y in line[n - 8 : n + 9])]
    for x, y in tops:
        if y < limit:
            steps = [(x + rng.uniform(-5, 7), y + step) for step in range(0, 90, 9)]
            shade = polygon((x, y), *steps, (x + 110, y + 100), (x + 60, y + 40))
            canvas.paint("#5b4c86", shade, blur=1.2, opacity=0.45, within=[body])


def cloud(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A white cloud with a flat, grey base; `size` is half its width in pixels."""
    puffs = []
    for place in np.linspace(-0.85, 0.85, 9):
        radius = size * (0.16 + 0.26 * (1 - abs(place)) * rng.uniform(0.8, 1.25))
        puffs.append(ellipse(x + place * size, y - radius * 0.75, radius, radius))
    puffs.append(box(x - size, y - size * 0.16, x + size, y + size * 0.04, size * 0.1))
    canvas.paint("#ffffff", *puffs, blur=2.2, opacity=0.96)
    base = canvas.vertical((y - size * 0.5, "#ffffff"), (y + size * 0.04, "#b4c9db"))
    canvas.paint(base, *puffs, blur=3, opacity=0.75)


def pine(rng: np.random.Generator, x: float, foot: float, height: float) -> Shape:
    """The outline of a conifer; `foot` is the y of its ground."""
    half, layers = height * 0.2, max(4, round(height / 12))
    right, left = [(x, foot - height)], []
    for n in range(1, layers + 1):
        y = foot - height + height * 0.93 * n / layers
        width = half * (n / layers) ** 0.85
        for side, points in ((1, right), (-1, left)):
            reach = width * rng.uniform(0.85, 1.15)
            points.append((x + side * reach, y + rng.uniform(-0.2, 0.2) * height / layers))
            if n < layers:
                points.append((x + side * reach * 0.5, y - 0.12 * height / layers))
    stem = height * 0.025
    bottom = [
        (x + stem, foot - 0.07 * height),
        (x + stem, foot + 2),
        (x - stem, foot + 2),
        (x - stem, foot - 0.07 * height),
    ]
    return polygon(*right, *bottom, *reversed(left))


def trunk(rng: np.random.Generator, x: float, foot: float, width: float) -> Shape:
    """A tree's stem that leaves the picture at its top and spreads at its foot."""
    lean = rng.uniform(-0.3, 0.3) * width
    side = [(0.38, -10.0), (0.42, foot * 0.5), (0.5, foot - width * 0.9), (0.62, foot - width * 0.3), (0.95, foot)]
    right = smooth([(x + lean * (1 - y / foot) + part * width, y) for part, y in side], closed=False)
    left = smooth([(x + lean * (1 - y / foot) - part * width, y) for part, y in side], closed=False)
    return polygon(*right, (x, foot + width * 0.16), *reversed(left))


def leaves(rng: np.random.Generator, count: int, width: float, depth: float, size: float) -> list[Shape]:
    """Leaf clusters that hang from the top edge, down to about `depth`, lowest at the sides."""
    shapes = []
    for _ in range(count):
        x = rng.uniform(-10, width + 10)
        lowest = depth * (0.55 + 1.1 * abs(2 * x / width - 1) ** 1.5)
        y = lowest * rng.random() ** 0.8
        shapes.append(ellipse(x, y, size * rng.uniform(0.7, 1.5), size * rng.uniform(0.5, 0.9)))
    return shapes


def fern(rng: np.random.Generator, x: float, foot: float, size: float) -> Shape:
    """A tuft of arching blades."""
    blades = []
    for angle in np.linspace(-1.25, 1.25, 9) + rng.uniform(-0.12, 0.12, 9):
        length = size * rng.uniform(0.75, 1.1)
        tip = (x + length * np.sin(angle), foot - length * np.cos(angle) * 0.8 + abs(angle) * size * 0.16)
        bend = (x + 0.5 * length * np.sin(angle) * 0.8, foot - 0.62 * length * np.cos(angle))
        blade = smooth([(x, foot), bend, tip], closed=False, steps=6)
        width = size * 0.045
        blades.append(polygon(*[(a - width, b) for a, b in blade], *[(a + width, b) for a, b in reversed(blade)]))

    def draw_blades(draw: ImageDraw.ImageDraw) -> None:
        for blade in blades:
            blade(draw)

    return draw_blades


def cactus(
    canvas: Canvas, x: float, foot: float, height: float, width: float, arms: Sequence[tuple[int, float, float, float]]
) -> None:
    """A saguaro with the sun on its right.

    Args:
        canvas: gets it.
        x, foot: middle of its foot.
        height, width: of its stem.
        arms: (side -1 or 1, height of the elbow as a share, reach, length upwards) in pixels.
    """
    canvas.paint(
        "#7a3f20", ellipse(x - width * 2.2, foot + width * 0.05, width * 2.8, width * 0.24), blur=2, opacity=0.55
    )
    for side, share, reach, rise in arms:
        y, thick = foot - height * share, width * 0.66
        bend = smooth(
            [
                (x, y),
                (x + side * reach * 0.75, y - 2),
                (x + side * reach, y - reach * 0.4),
                (x + side * reach, y - rise),
            ],
            closed=False,
        )
        _limb(canvas, bend, thick)
    _limb(canvas, [(x, foot), (x, foot - height)], width, flat_foot=True)


def _limb(canvas: Canvas, line: Sequence[Point], width: float, flat_foot: bool = False) -> None:
    body = stroke(width, *line)
    below = [polygon((0, 0), (canvas.width, 0), (canvas.width, line[0][1]), (0, line[0][1]))] if flat_foot else ()
    layers = ((0.0, 1.0, "#2f5a34"), (0.16, 0.62, "#47803f"), (0.27, 0.28, "#6fa552"))
    for shift, share, colour in layers:
        band = stroke(width * share, *[(a + shift * width, b) for a, b in line])
        canvas.paint(colour, band, blur=0 if share == 1 else width * 0.07, within=below or [body])
    for shift in np.linspace(-0.36, 0.36, 5):
        groove = stroke(max(0.7, width * 0.04), *[(a + shift * width, b) for a, b in line])
        canvas.paint("#1f3f26", groove, opacity=0.5, within=below or [body])


def faded(field: np.ndarray, threshold: float, top: float, bottom: float) -> np.ndarray:
    """What of a field exceeds a threshold, weighed from `top` to `bottom` down its rows."""
    weights = np.linspace(top, bottom, field.shape[0])[:, None]
    return np.clip((field - threshold) / (1 - threshold), 0, 1) * weights


def bank(nodes: Sequence[Point], bottom: float) -> Shape:
    """Ground below a soft line through the nodes."""
    return ground(smooth(nodes, closed=False), bottom)
