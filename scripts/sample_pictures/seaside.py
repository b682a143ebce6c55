"""A sailing boat on a blue sea, a lighthouse behind it."""

from __future__ import annotations

import numpy as np

from scripts.sample_pictures.canvas import Canvas, box, ellipse, polygon, smooth, stroke
from scripts.sample_pictures.scenery import cloud


def draw_boat(rng: np.random.Generator) -> Canvas:
    """A sailing boat on a blue sea, a lighthouse behind it."""
    canvas, level = Canvas(480, 600), 352
    canvas.paint(canvas.vertical((0, "#2f7fc4"), (200, "#7db9e2"), (352, "#dff0f3")), box(0, 0, 480, 600))
    cloud(canvas, rng, 110, 110, 62)
    cloud(canvas, rng, 395, 62, 46)
    cloud(canvas, rng, 350, 196, 34)
    headland = smooth([(300, 356), (330, 340), (372, 326), (420, 310), (490, 300), (500, 356)], closed=False)
    canvas.paint(canvas.vertical((300, "#6f9a52"), (330, "#577a48"), (352, "#6b6a58")), polygon(*headland))
    canvas.paint("#8a8068", polygon((296, 354), (330, 342), (380, 346), (480, 340), (480, 354)), opacity=0.9)
    _lighthouse(canvas, 424, 311)
    canvas.paint(canvas.vertical((352, "#4f9fc0"), (420, "#2276a8"), (600, "#0d3f70")), box(0, level, 480, 600))
    for colour, count in (("#0f4f85", 210), ("#5fb0d0", 90), ("#8ccbe0", 180), ("#d4eef5", 40)):
        waves = []
        for y in level + 248 * rng.random(count) ** 1.3:
            size = 2 + (y - level) * 0.1
            waves.append(ellipse(rng.uniform(0, 480), y, size * rng.uniform(0.7, 1.6), size * 0.09 + 0.3))
        canvas.paint(colour, *waves, opacity=0.5)
    _sailboat(canvas)
    for x, y, size in ((80, 236, 13), (118, 252, 9), (330, 120, 10)):
        wing = smooth(
            [
                (x - size, y - size * 0.2),
                (x - size * 0.45, y - size * 0.5),
                (x, y),
                (x + size * 0.45, y - size * 0.55),
                (x + size, y - size * 0.25),
            ],
            closed=False,
        )
        canvas.paint("#ffffff", stroke(2.6, *wing))
        canvas.paint("#5f6b78", stroke(0.9, *[(a, b + 1.2) for a, b in wing]), opacity=0.7)
    return canvas


def _sailboat(canvas: Canvas) -> None:
    deck, water = 420, 452
    canvas.paint("#0a2f55", ellipse(222, water + 14, 118, 13), blur=5, opacity=0.5)
    canvas.paint("#f4f0e4", ellipse(214, water + 50, 40, 44), blur=9, opacity=0.28)
    canvas.paint("#6b4a2f", stroke(4.5, (228, deck), (228, 118)), stroke(4, (228, deck - 14), (122, deck - 20)))
    main = [
        (224, 128),
        *smooth([(224, 128), (178, 240), (122, 396)], closed=False),
        *smooth([(122, 396), (176, 404), (224, 398)], closed=False),
    ]
    jib = [
        (234, 150),
        *smooth([(234, 150), (284, 270), (338, 402)], closed=False),
        *smooth([(338, 402), (290, 398), (240, 392)], closed=False),
    ]
    for sail, near, far in ((main, 224, 122), (jib, 338, 234)):
        low, high = min(near, far), max(near, far)
        canvas.paint(
            canvas.horizontal((low, "#ffffff"), ((low + high) / 2, "#f3efe2"), (high, "#cfcabb")), polygon(*sail)
        )
    for y in (200, 270, 340):
        canvas.paint("#a8a290", stroke(1, (120, y + 22), (224, y)), opacity=0.7, within=[polygon(*main)])
        canvas.paint("#a8a290", stroke(1, (236, y), (340, y + 20)), opacity=0.7, within=[polygon(*jib)])
    canvas.paint("#d23b32", polygon((228, 112), (262, 121), (228, 131)))
    hull = polygon(
        *smooth([(102, deck), (352, deck - 12)], closed=False),
        *smooth([(352, deck - 12), (326, 440), (290, water + 4)], closed=False),
        *smooth([(290, water + 4), (210, water + 6), (132, water + 2)], closed=False),
        (102, deck),
    )
    canvas.paint(canvas.vertical((deck, "#23406e"), (water, "#132848")), hull)
    canvas.paint("#ffffff", polygon((90, deck - 2), (360, deck - 15), (360, deck - 9), (90, deck + 5)), within=[hull])
    canvas.paint("#c5352f", box(90, water - 9, 370, water + 8), within=[hull])
    canvas.paint("#c99a62", polygon((170, deck - 4), (180, deck - 17), (262, deck - 21), (276, deck - 9)))
    canvas.paint("#22364f", *(ellipse(x, deck - 12 - (x - 190) * 0.045, 4, 3.4) for x in (196, 218, 240)))
    canvas.paint(
        "#eaf6fa",
        *(ellipse(x, water + 4 + (i % 2) * 3, 17, 2.6) for i, x in enumerate(range(118, 320, 22))),
        blur=1,
        opacity=0.85,
    )
    canvas.paint(
        "#eaf6fa", ellipse(330, 445, 16, 3), ellipse(345, 449, 20, 2.4), ellipse(92, 456, 34, 2.4), blur=1, opacity=0.8
    )


def _lighthouse(canvas: Canvas, x: float, foot: float) -> None:
    tower = polygon((x - 12, foot), (x - 7.5, foot - 78), (x + 7.5, foot - 78), (x + 12, foot))
    canvas.paint(canvas.horizontal((x - 12, "#ffffff"), (x + 12, "#c9c9cf")), tower)
    canvas.paint(
        "#d0403a", box(x - 20, foot - 66, x + 20, foot - 49), box(x - 20, foot - 32, x + 20, foot - 15), within=[tower]
    )
    canvas.paint("#2f3640", box(x - 11, foot - 81, x + 11, foot - 77), box(x - 5.5, foot - 95, x + 5.5, foot - 80))
    canvas.paint("#ffe78a", box(x - 4, foot - 92, x + 4, foot - 83))
    canvas.paint("#c5352f", polygon((x - 8.5, foot - 94), (x, foot - 105), (x + 8.5, foot - 94)))
