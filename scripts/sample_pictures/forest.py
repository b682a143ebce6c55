"""A sunlit path between tall trees."""

from __future__ import annotations

import numpy as np

from scripts.sample_pictures.canvas import Canvas, box, ellipse, ground, mix, mottle, polygon, ridge, smooth, stroke
from scripts.sample_pictures.scenery import faded, fern, leaves, trunk


def draw_forest(rng: np.random.Generator) -> Canvas:
    """A sunlit path between tall trees."""
    canvas = Canvas(448, 608)
    canvas.paint(
        canvas.vertical((0, "#3f7a3c"), (260, "#b9d478"), (330, "#f4efb0"), (608, "#4d7a34")), box(0, 0, 448, 608)
    )
    canvas.cover("#2f6a35", faded(mottle(rng, 8, 6), 0.55, top=1.0, bottom=0.2), 0.75)
    canvas.glow(236, 250, 210, "#fffbd0", 0.95)
    layers = ((16, 3.5, "#9dba74", 350), (13, 7, "#7a9455", 372), (9, 13, "#586b3a", 404))
    for count, width, colour, foot in layers:
        for x in np.linspace(-10, 458, count) + rng.uniform(-13, 13, count):
            if abs(x - 236) > 22 + 2.4 * width:
                canvas.paint(colour, trunk(rng, x, foot, width))
        canvas.paint(mix(colour, "#74a83c", 0.6), ground(ridge(rng, 448, foot, 6, 8), 608))
        canvas.paint(mix(colour, "#4f8f3a", 0.6), *leaves(rng, 90, 448, 40 + 6 * width, 9), opacity=0.55)
    canvas.paint(canvas.vertical((400, "#7fae45"), (608, "#35602a")), ground(ridge(rng, 448, 408, 5, 6), 608))
    path = [
        *smooth([(228, 398), (206, 430), (196, 462), (168, 520), (92, 612)], closed=False),
        *smooth([(372, 612), (318, 530), (276, 470), (262, 434), (248, 398)], closed=False),
    ]
    canvas.paint(canvas.vertical((398, "#f0dca0"), (480, "#c9a468"), (608, "#8f6a40")), polygon(*path))
    for share in np.linspace(0, 1, 6):
        pebbles = []
        for y in 405 + 200 * rng.random(25) ** 0.8:
            half = (y - 398) * 0.06 + 1
            pebbles.append(ellipse(236 + rng.normal(0, 1) * (y - 380) * 0.32, y, half * 0.5, half * 0.22))
        canvas.paint(mix("#6b4a2a", "#e8d29a", share), *pebbles, opacity=0.45, within=[polygon(*path)])
    for x, width, foot in ((-4, 46, 560), (70, 27, 480), (396, 31, 500), (462, 52, 590)):
        stem = trunk(rng, x, foot, width)
        light, dark = ("#8a6a45", "#33261a") if x < 236 else ("#33261a", "#8a6a45")
        canvas.paint(canvas.horizontal((x - width / 2, dark), (x + width / 2, light)), stem)
        bark = []
        for _ in range(26):
            left, top = x + rng.uniform(-0.4, 0.4) * width, rng.uniform(0, foot)
            bark.append(stroke(1.2, (left, top), (left + rng.uniform(-2, 2), top + rng.uniform(15, 45))))
        canvas.paint("#1f170f", *bark, opacity=0.4, within=[stem])
        canvas.paint(
            "#2c5424",
            *(
                fern(rng, x + rng.normal(0, width * 0.7), foot + rng.uniform(-2, 16), 26 + width * 0.4)
                for _ in range(7)
            ),
        )
    for y, colour, size in ((0, "#24512a", 13), (-10, "#3c7a32", 10), (-18, "#6aa53f", 8)):
        canvas.paint(colour, *leaves(rng, 260, 448, 95 + y, size), opacity=0.9)
    for x, spread in ((120, 30), (190, 42), (270, 34), (335, 46)):
        canvas.paint(
            "#fff6c0",
            polygon((x + 60, -10), (x + 74, -10), (x - 60 + spread, 470), (x - 60 - spread, 470)),
            blur=9,
            opacity=0.17,
        )
    for _ in range(60):
        side = rng.choice([-1, 1])
        y = rng.uniform(440, 606)
        x = 232 + side * ((y - 380) * 0.72 + rng.uniform(8, 120))
        canvas.paint(rng.choice(["#2f5f27", "#4d8a34", "#6fae45"]), fern(rng, x, y, 8 + (y - 430) * 0.11))
    return canvas
