"""Fruit and a blue jug on a wooden table."""

from __future__ import annotations

import numpy as np

from scripts.sample_pictures.canvas import Canvas, box, ellipse, polygon, smooth, stroke

EDGE = 318  # y of the table's far edge


def draw_still_life(rng: np.random.Generator) -> Canvas:
    """A jug, two apples, a pear, two oranges and grapes."""
    canvas = Canvas(512, 512)
    canvas.paint(canvas.radial(120, 60, (0, "#5f8a86"), (300, "#2f5a5c"), (620, "#152f36")), box(0, 0, 512, 512))
    _table(canvas, rng)
    for x, y, rx in ((150, 372, 92), (262, 392, 66), (352, 398, 70), (428, 412, 60), (196, 436, 60), (318, 456, 72)):
        canvas.paint("#2a1206", ellipse(x + rx * 0.45, y, rx, rx * 0.24), blur=9, opacity=0.6)
    _jug(canvas)
    canvas.ball(352, 352, 50, "#ffc46a", "#f28a1c", "#a8480a")
    _pores(canvas, rng, 352, 352, 50)
    canvas.ball(428, 372, 46, "#ffc870", "#f08c20", "#a44a0c")
    _pores(canvas, rng, 428, 372, 46)
    _pear(canvas)
    _apple(canvas, rng, 190, 400, 46)
    _grapes(canvas, rng)
    _apple(canvas, rng, 104, 428, 42)
    return canvas


def _table(canvas: Canvas, rng: np.random.Generator) -> None:
    top = box(0, EDGE, 512, 512)
    canvas.paint(canvas.vertical((EDGE, "#7a4a28"), (400, "#a3683a"), (512, "#c58a52")), top)
    for number in range(64):
        y = EDGE + 194 * rng.random()
        wave = [(x, y + 2.2 * np.sin(x / rng.uniform(50, 120) + number)) for x in range(-10, 560, 30)]
        colour = "#5a3218" if number % 3 else "#e0a870"
        canvas.paint(colour, stroke(rng.uniform(0.5, 1.6), *wave), opacity=0.28, within=[top])
    for y in (EDGE + 44, EDGE + 112):
        canvas.paint("#3f2210", box(0, y, 512, y + 1.8), opacity=0.7)
        canvas.paint("#e5b07a", box(0, y + 1.8, 512, y + 3), opacity=0.4)
    canvas.paint("#2a1608", box(0, EDGE - 2, 512, EDGE + 3), blur=1.5, opacity=0.6)
    canvas.glow(130, 440, 280, "#ffdba0", 0.28)


def _jug(canvas: Canvas) -> None:
    side = [(0, 378), (48, 376), (72, 340), (76, 296), (56, 244), (34, 208), (30, 178), (42, 148)]
    right = smooth([(150 + x, y) for x, y in side], closed=False)
    left = smooth([(150 - x, y) for x, y in side], closed=False)
    handle = smooth([(186, 176), (226, 172), (246, 214), (236, 258), (208, 282)], closed=False)
    canvas.paint("#1d3f7a", stroke(15, *handle))
    canvas.paint("#5f93d6", stroke(5, *[(x - 2, y - 2) for x, y in handle]), blur=1.2, opacity=0.8)
    body = polygon(*right, *reversed(left))
    glaze = canvas.horizontal((74, "#3f78c0"), (116, "#7fb0ea"), (160, "#2f62ac"), (228, "#122c5c"))
    canvas.paint(glaze, body)
    canvas.paint("#f2ead6", box(60, 262, 240, 284), within=[body])
    canvas.paint(
        canvas.horizontal((74, "#8a8a90"), (116, "#ffffff"), (228, "#3a4258")),
        box(60, 262, 240, 284),
        opacity=0.45,
        within=[body],
    )
    canvas.paint("#2f62ac", *(ellipse(x, 273, 5, 5) for x in range(84, 230, 18)), within=[body])
    canvas.paint("#ffffff", ellipse(112, 232, 7, 34), ellipse(106, 312, 6, 20), blur=4, opacity=0.6, within=[body])
    canvas.paint("#7fb0ea", ellipse(150, 148, 43, 11))
    canvas.paint("#12244a", ellipse(150, 149, 37, 8))


def _apple(canvas: Canvas, rng: np.random.Generator, x: float, y: float, r: float) -> None:
    outline = [
        (0, -0.78),
        (0.4, -0.98),
        (0.86, -0.72),
        (1.02, -0.1),
        (0.82, 0.56),
        (0.4, 0.94),
        (0, 0.86),
        (-0.4, 0.94),
        (-0.82, 0.56),
        (-1.02, -0.1),
        (-0.86, -0.72),
        (-0.4, -0.98),
    ]
    body = polygon(*smooth([(x + r * a, y + r * b) for a, b in outline]))
    skin = canvas.radial(x - 0.35 * r, y - 0.35 * r, (0, "#ff8a6a"), (0.55 * r, "#d8262a"), (1.5 * r, "#6f0d16"))
    canvas.paint(skin, body)
    for _ in range(26):
        a = rng.uniform(-1, 1)
        streak = smooth(
            [(x + 0.15 * a * r, y - 0.8 * r), (x + a * r, y - 0.2 * r), (x + 0.9 * a * r, y + 0.5 * r)],
            closed=False,
            steps=6,
        )
        canvas.paint("#ffcf7a", stroke(1, *streak), blur=0.5, opacity=0.13, within=[body])
    canvas.paint("#4f0a10", ellipse(x, y - 0.8 * r, 0.26 * r, 0.09 * r), blur=2, opacity=0.8, within=[body])
    stem = smooth([(x, y - 0.78 * r), (x + 0.04 * r, y - 1.05 * r), (x + 0.16 * r, y - 1.28 * r)], closed=False)
    canvas.paint("#4a2c14", stroke(0.09 * r, *stem))
    leaf = smooth(
        [
            (x + 0.06 * r, y - 1.04 * r),
            (x + 0.4 * r, y - 1.34 * r),
            (x + 0.82 * r, y - 1.22 * r),
            (x + 0.45 * r, y - 0.98 * r),
        ]
    )
    canvas.paint(canvas.horizontal((x, "#7fc04a"), (x + 0.8 * r, "#2f6f2a")), polygon(*leaf))
    canvas.paint(
        "#ffffff", ellipse(x - 0.45 * r, y - 0.45 * r, 0.15 * r, 0.22 * r), blur=0.08 * r, opacity=0.8, within=[body]
    )


def _pear(canvas: Canvas) -> None:
    outline = [
        (262, 246),
        (276, 250),
        (284, 270),
        (290, 298),
        (308, 330),
        (308, 366),
        (288, 390),
        (262, 394),
        (236, 390),
        (216, 366),
        (216, 330),
        (234, 298),
        (240, 270),
        (248, 250),
    ]
    body = polygon(*smooth(outline))
    canvas.paint(canvas.radial(244, 330, (0, "#eef08a"), (36, "#b8cc3c"), (96, "#566f16")), body)
    canvas.paint("#e0803a", ellipse(292, 352, 26, 34), blur=13, opacity=0.45, within=[body])
    canvas.paint("#ffffff", ellipse(243, 328, 7, 15), ellipse(254, 272, 4, 9), blur=4, opacity=0.75, within=[body])
    canvas.paint("#5a3a1a", stroke(4.5, *smooth([(262, 250), (264, 234), (274, 218)], closed=False)))


def _pores(canvas: Canvas, rng: np.random.Generator, x: float, y: float, r: float) -> None:
    spots = []
    for angle, reach in zip(rng.uniform(0, 6.28, 150), np.sqrt(rng.random(150)), strict=True):
        spots.append(ellipse(x + 0.94 * r * reach * np.cos(angle), y + 0.94 * r * reach * np.sin(angle), 0.8, 0.8))
    canvas.paint("#8f3f06", *spots, opacity=0.35)
    canvas.paint("#4a5a1a", ellipse(x + 0.1 * r, y - 0.66 * r, 0.1 * r, 0.06 * r))


def _grapes(canvas: Canvas, rng: np.random.Generator) -> None:
    stem = smooth([(288, 408), (276, 396), (262, 396)], closed=False)
    for row, (y, places) in enumerate(
        (
            (418, (282, 308, 334, 358)),
            (434, (270, 296, 322, 348, 370)),
            (450, (258, 284, 310, 336, 360)),
            (464, (274, 300, 326, 348)),
        )
    ):
        for x in places:
            at = (x + rng.uniform(-2, 2), y + rng.uniform(-2, 2))
            canvas.paint("#1a0a26", ellipse(at[0] + 1.5, at[1] + 2.5, 16, 16), blur=2.5, opacity=0.55)
            canvas.ball(*at, 15.5, "#c9a0e0", "#7a3fa0", "#35124f" if row % 2 else "#3f1658")
    canvas.paint("#5f4a20", stroke(4, *stem))
