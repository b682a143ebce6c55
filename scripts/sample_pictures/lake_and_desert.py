"""A lake at dusk, and a desert."""

from __future__ import annotations

import numpy as np

from scripts.sample_pictures.canvas import Canvas, box, ellipse, ground, mix, polygon, ridge, smooth, stroke
from scripts.sample_pictures.scenery import cactus, pine, skyline, snow_caps


def draw_lake(rng: np.random.Generator) -> Canvas:
    """Mountains behind a still lake after sunset."""
    canvas, level = Canvas(640, 448), 268
    sky = canvas.vertical(
        (0, "#1c2452"), (80, "#46407f"), (150, "#a85a84"), (205, "#ee8a62"), (240, "#ffbe76"), (268, "#ffe2a6")
    )
    canvas.paint(sky, box(0, 0, 640, 448))
    canvas.paint("#fff6e0", *(ellipse(rng.uniform(0, 640), rng.uniform(0, 85), r, r) for r in rng.uniform(0.4, 1, 40)))
    for y, x, length in ((118, 150, 150), (134, 230, 110), (96, 470, 130), (150, 520, 100), (165, 90, 80)):
        canvas.paint("#ffb08a", ellipse(x, y, length, 4), ellipse(x + 30, y - 4, length / 2, 3), blur=4, opacity=0.6)
    canvas.glow(330, 246, 230, "#ffe9a8", 0.9)
    canvas.paint("#fff7d6", ellipse(330, 240, 23, 23))
    far = skyline(
        rng,
        [
            (0, 190),
            (70, 150),
            (150, 208),
            (235, 120),
            (300, 196),
            (345, 215),
            (420, 165),
            (500, 96),
            (575, 172),
            (640, 140),
        ],
        7,
    )
    canvas.paint(canvas.vertical((90, "#5b4c86"), (268, "#d08a8c")), ground(far, level))
    snow_caps(canvas, rng, far, level, 168, "#ffd9cf")
    middle = ridge(rng, 640, 232, 26, 7, 0.45)
    canvas.paint(canvas.vertical((200, "#4a3a6c"), (268, "#8a5a78")), ground(middle, level))
    near = ridge(rng, 640, 256, 7, 9, 0.6)
    canvas.paint("#2b274f", ground(near, level))
    canvas.paint("#2b274f", *(pine(rng, x, 264, rng.uniform(9, 20)) for x in rng.uniform(0, 640, 70)))
    canvas.reflect(level, rng, ripple=2.2, dim=0.8)
    canvas.paint("#2a2c63", box(0, level, 640, 448), opacity=0.22)
    canvas.paint("#ffe6b8", box(0, level - 0.6, 640, level + 0.6), opacity=0.35)
    for y in np.linspace(level + 8, 440, 26):
        half = rng.uniform(6, 34) * (0.4 + (y - level) / 150)
        canvas.paint("#fff0c4", ellipse(330 + rng.normal(0, 12), y, half, 0.9), opacity=0.55)
    shore = smooth([(0, 378), (60, 384), (130, 408), (200, 430), (250, 452)], closed=False)
    canvas.paint("#0f1029", polygon((0, 448), *shore, (250, 448)))
    for x, y, height in ((18, 396, 210), (58, 400, 150), (92, 410, 178), (130, 420, 96), (162, 430, 62)):
        canvas.paint("#0f1029", pine(rng, x, y, height))
    corner = smooth([(640, 400), (600, 410), (556, 428), (520, 452)], closed=False)
    canvas.paint("#0f1029", polygon((640, 448), *corner), pine(rng, 622, 420, 128), pine(rng, 590, 430, 74))
    return canvas


def draw_desert(rng: np.random.Generator) -> Canvas:
    """Cacti and sand dunes under a low sun."""
    canvas = Canvas(640, 448)
    canvas.paint(
        canvas.vertical((0, "#3d84c6"), (150, "#8fc3e2"), (240, "#fbe3b4"), (300, "#ffd08a")), box(0, 0, 640, 448)
    )
    canvas.glow(486, 118, 190, "#fff4c4", 0.9)
    canvas.paint("#fffbe6", ellipse(486, 118, 32, 32))
    for left, right, top, colour in (
        (-30, 150, 186, "#c98a6a"),
        (196, 300, 204, "#cf9474"),
        (520, 600, 214, "#d49b7a"),
    ):
        slope = 0.16 * (right - left)
        mesa = polygon(
            (left - 8, 262),
            (left + slope * 0.5, top + 26),
            (left + slope * 0.6, top),
            (right - slope * 0.6, top),
            (right - slope * 0.5, top + 26),
            (right + 8, 262),
        )
        canvas.paint(canvas.vertical((top, colour), (262, mix(colour, "#f0c096", 0.6))), mesa)
        canvas.paint(
            "#8f4f3c",
            box(left, top + 10, right, top + 13),
            box(left, top + 30, right, top + 33),
            box(left, top + 44, right, top + 45),
            opacity=0.3,
            within=[mesa],
        )
        canvas.paint(
            "#7a4038",
            *(stroke(2, (x, top), (x + 4, 262)) for x in range(left, right, 17)),
            blur=1,
            opacity=0.22,
            within=[mesa],
        )
    dunes = (
        ([(-5, 262), (90, 246), (210, 262), (330, 242), (460, 262), (560, 246), (645, 258)], "#f2bd74", "#d9954f", 4),
        ([(-5, 300), (110, 276), (240, 308), (400, 272), (540, 304), (645, 286)], "#f5b868", "#c97c3e", 5),
        ([(-5, 356), (150, 322), (320, 372), (470, 330), (645, 352)], "#f7bd6c", "#bb6a34", 6),
    )
    for nodes, light, dark, gap in dunes:
        line = smooth(nodes, closed=False)
        top = min(y for _, y in nodes)
        body = ground(line, 448)
        canvas.paint(canvas.vertical((top, light), (top + 110, dark)), body)
        peaks = [node for node in nodes if node[1] < top + 14]
        for x, y in peaks:  # the side away from the sun
            shade = [
                (x, y),
                *smooth([(x, y), (x - 20, y + 40), (x - 90, y + 90)], closed=False),
                (x - 210, y + 70),
                (x - 120, y + 22),
            ]
            canvas.paint(dark, polygon(*shade), blur=2.5, opacity=0.5, within=[body])
        waves = [[(x, y + n * gap + 1.5 * np.sin(x / 17 + n)) for x, y in line[::3]] for n in range(1, 16)]
        canvas.paint("#8f4d28", *(stroke(0.8, *wave) for wave in waves), opacity=0.16, within=[body])
    cactus(canvas, 178, 392, 226, 30, (((-1, 0.42, 46, 82)), (1, 0.56, 48, 70)))
    cactus(canvas, 392, 338, 108, 15, ((1, 0.45, 24, 38), (-1, 0.6, 23, 28)))
    cactus(canvas, 574, 322, 62, 9, ((-1, 0.5, 14, 20),))
    for x, y, size in ((262, 410, 17), (292, 418, 10), (486, 396, 13), (80, 426, 12), (512, 402, 7)):
        canvas.paint("#6b3418", ellipse(x - size, y + size * 0.45, size * 1.6, size * 0.28), blur=2, opacity=0.5)
        rock = [
            (x + size * np.cos(a) * rng.uniform(0.85, 1.1), y + size * 0.62 * np.sin(a) * rng.uniform(0.85, 1.1))
            for a in np.arange(0, 6.2, 0.8)
        ]
        canvas.paint(canvas.horizontal((x - size, "#6f4230"), (x + size, "#cf9a72")), polygon(*smooth(rock)))
    return canvas
