"""A red house in a meadow, and a village in the snow."""

from __future__ import annotations

import numpy as np

from scripts.sample_pictures.canvas import Canvas, box, ellipse, ground, mix, polygon, ridge, smooth, stroke
from scripts.sample_pictures.scenery import bank, cloud, pine


def draw_red_house(rng: np.random.Generator) -> Canvas:
    """A red wooden house with a grey roof on a summer's day."""
    canvas = Canvas(608, 480)
    canvas.paint(canvas.vertical((0, "#3f93d8"), (290, "#d3ecf6")), box(0, 0, 608, 480))
    for x, y, size in ((92, 84, 60), (300, 58, 44), (520, 112, 66)):
        cloud(canvas, rng, x, y, size)
    for nodes, light, dark in (
        ([(-5, 262), (120, 226), (260, 258), (430, 218), (613, 256)], "#8fb9a0", "#7aa87a"),
        ([(-5, 286), (160, 268), (330, 284), (500, 258), (613, 278)], "#7fb25a", "#5f9a48"),
    ):
        canvas.paint(canvas.vertical((218, light), (310, dark)), bank(nodes, 480))
    trees = [(x, 286 + rng.uniform(-4, 4), rng.uniform(24, 44)) for x in (18, 44, 66, 560, 584, 600)]
    canvas.paint("#2f6038", *(pine(rng, *tree) for tree in trees))
    meadow = bank([(-5, 312), (150, 298), (330, 304), (480, 294), (613, 308)], 480)
    canvas.paint(canvas.vertical((296, "#8ccb52"), (480, "#3f8a2c")), meadow)
    path = polygon(
        *smooth([(300, 366), (296, 392), (262, 420), (214, 488)], closed=False),
        *smooth([(330, 488), (346, 428), (338, 392), (328, 366)], closed=False),
    )
    canvas.paint(canvas.vertical((360, "#ead9b0"), (480, "#c7a878")), path)
    _round_tree(canvas, rng, 486, 352)
    _house(canvas, rng)
    _fence(canvas)
    _flowers(canvas, rng)
    return canvas


def _house(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.paint("#1f4a1a", ellipse(330, 368, 160, 13), blur=7, opacity=0.55)
    canvas.paint("#a8533f", box(352, 124, 376, 182))
    canvas.paint("#7a372a", box(368, 124, 376, 182), box(348, 120, 380, 127))
    for n in range(5):
        x, y = 366 + n * 9 + n * n * 1.5, 104 - n * 17
        canvas.paint("#ffffff", ellipse(x, y, 8 + n * 3.4, 6 + n * 2.6), blur=4, opacity=0.75 - n * 0.12)
    wall = box(196, 236, 416, 368)
    canvas.paint(canvas.horizontal((196, "#cf3b30"), (416, "#a82a26")), wall)
    canvas.paint("#7a1a18", *(box(196, y, 416, y + 1.2) for y in range(246, 368, 11)), opacity=0.55)
    canvas.paint("#8f8f8a", box(194, 360, 418, 369))
    roof = polygon((176, 242), (226, 160), (388, 160), (436, 242))
    canvas.paint(canvas.vertical((160, "#7d838c"), (242, "#53585f")), roof)
    for row, y in enumerate(range(172, 242, 12)):
        canvas.paint("#3a3e45", box(170, y, 440, y + 1.2), opacity=0.5, within=[roof])
        slates = (box(x + 9 * (row % 2), y, x + 9 * (row % 2) + 1, y + 12) for x in range(170, 440, 18))
        canvas.paint("#3a3e45", *slates, opacity=0.35, within=[roof])
    canvas.paint("#f4f1ea", box(176, 239, 436, 246), box(193, 244, 200, 366), box(412, 244, 419, 366))
    for x in (218, 350):
        _window(canvas, x, 272)
    canvas.paint("#f4f1ea", box(288, 272, 336, 362))
    canvas.paint("#2f5f4a", box(293, 277, 331, 362))
    canvas.paint(
        "#24493a", box(298, 283, 310, 314), box(314, 283, 326, 314), box(298, 322, 310, 354), box(314, 322, 326, 354)
    )
    canvas.paint("#f0c84a", ellipse(326, 320, 2.4, 2.4))
    canvas.paint("#a9a59a", box(282, 361, 342, 368, 2))
    for x in (216, 348):
        canvas.paint("#6b4a2f", box(x, 322, x + 54, 332))
        blooms = [(x + rng.uniform(2, 52), 320 + rng.uniform(-5, 3)) for _ in range(26)]
        canvas.paint("#3f7a30", *(ellipse(a, b + 1, 4, 3) for a, b in blooms))
        canvas.paint("#ffd23f", *(ellipse(a, b - 1, 2.3, 2.3) for a, b in blooms[::2]))
        canvas.paint("#ffffff", *(ellipse(a, b - 1, 2, 2) for a, b in blooms[1::2]))


def _window(canvas: Canvas, x: float, y: float) -> None:
    canvas.paint("#f4f1ea", box(x, y, x + 50, y + 50))
    canvas.paint(canvas.vertical((y, "#86b8d8"), (y + 50, "#d8eef8")), box(x + 5, y + 5, x + 45, y + 45))
    glass = box(x + 5, y + 5, x + 45, y + 45)
    canvas.paint(
        "#ffffff",
        polygon((x + 8, y + 45), (x + 32, y + 5), (x + 41, y + 5), (x + 17, y + 45)),
        opacity=0.35,
        within=[glass],
    )
    canvas.paint("#f4f1ea", box(x + 23.5, y, x + 26.5, y + 50), box(x, y + 23.5, x + 50, y + 26.5))


def _round_tree(canvas: Canvas, rng: np.random.Generator, x: float, foot: float) -> None:
    canvas.paint("#1f4a1a", ellipse(x + 8, foot, 70, 9), blur=6, opacity=0.5)
    stem = polygon(
        *smooth([(x - 15, foot + 2), (x - 8, foot - 30), (x - 8, foot - 110)], closed=False),
        *smooth([(x + 8, foot - 110), (x + 8, foot - 30), (x + 16, foot + 2)], closed=False),
    )
    canvas.paint(canvas.horizontal((x - 14, "#8f6a45"), (x + 14, "#4f3520")), stem)
    for colour, shift, size, count in (("#2f6b2c", 0, 27, 40), ("#4a9138", -7, 22, 44), ("#79bb4a", -15, 13, 46)):
        puffs = []
        for angle, reach in zip(rng.uniform(0, 6.28, count), np.sqrt(rng.random(count)), strict=True):
            spread = 62 - size * 0.6 + shift
            puffs.append(
                ellipse(
                    x + shift + spread * reach * np.cos(angle),
                    foot - 138 + shift + spread * 0.95 * reach * np.sin(angle),
                    size * 0.7,
                    size * 0.62,
                )
            )
        canvas.paint(colour, *puffs, opacity=0.95)


def _fence(canvas: Canvas) -> None:
    for left, right in ((-10, 176), (446, 620)):
        y = 388
        canvas.paint("#1f4a1a", box(left, y + 17, right, y + 21), blur=3, opacity=0.4)
        canvas.paint("#e3e0d8", box(left, y - 10, right, y - 5), box(left, y + 5, right, y + 10))
        posts = (
            polygon((x, y + 18), (x, y - 18), (x + 4.5, y - 24), (x + 9, y - 18), (x + 9, y + 18))
            for x in range(left + 4, right - 6, 18)
        )
        canvas.paint("#ffffff", *posts)


def _flowers(canvas: Canvas, rng: np.random.Generator) -> None:
    blades, heads = [], {"#ffffff": [], "#ffd83f": [], "#e8508a": [], "#8a5fd0": []}
    for _ in range(330):
        y = 396 + 84 * rng.random()
        x = rng.uniform(0, 608)
        left, right = 296 - (y - 366) * 0.72, 330 + (y - 366) * 0.16 + 8
        if left - 8 < x < right + 8:
            continue
        size = 1.2 + (y - 396) * 0.026
        blades.append(stroke(0.5 + size * 0.25, (x, y + 4 * size), (x + rng.uniform(-2, 2), y)))
        heads[rng.choice(list(heads))].append((x, y, size))
    canvas.paint("#2f6f22", *blades)
    for colour, places in heads.items():
        petals = [
            ellipse(x + size * np.cos(a), y + size * np.sin(a), size * 0.75, size * 0.75)
            for x, y, size in places
            for a in np.arange(0, 6.28, 1.2566)
        ]
        canvas.paint(colour, *petals)
        canvas.paint(mix("#f0a820", "#7a4a10", 0.2), *(ellipse(x, y, size * 0.6, size * 0.6) for x, y, size in places))


def draw_village(rng: np.random.Generator) -> Canvas:
    """Four houses and a church on a snowy evening."""
    canvas = Canvas(608, 456)
    canvas.paint(
        canvas.vertical((0, "#16264f"), (150, "#3f5a8f"), (250, "#8fa0c4"), (300, "#c9cfe2")), box(0, 0, 608, 456)
    )
    far = ridge(rng, 608, 214, 46, 5, 0.45)
    canvas.paint(canvas.vertical((160, "#a8b6d6"), (280, "#c6cfe4")), ground(far, 456))
    canvas.paint("#7f90ba", ground([(x, y + 34) for x, y in ridge(rng, 608, 214, 30, 6, 0.5)], 456), opacity=0.55)
    forest = [pine(rng, x, 276, rng.uniform(22, 44)) for x in np.linspace(-5, 613, 64) + rng.uniform(-4, 4, 64)]
    canvas.paint("#33466f", *forest)
    canvas.paint("#33466f", box(0, 270, 608, 280))
    canvas.paint(
        canvas.vertical((262, "#dfe6f3"), (330, "#b9c7e2")),
        bank([(-5, 276), (150, 270), (320, 276), (480, 268), (613, 276)], 456),
    )
    _church(canvas, 306, 306)
    for x, foot, width, wall in (
        (66, 330, 92, "#8a5a44"),
        (190, 316, 76, "#a8835a"),
        (392, 318, 80, "#6f5a68"),
        (494, 336, 98, "#93543f"),
    ):
        _snowy_house(canvas, x, foot, width, wall)
    front = bank([(-5, 346), (130, 338), (300, 352), (460, 342), (613, 352)], 456)
    canvas.paint(canvas.vertical((338, "#f2f6fc"), (456, "#a9bade")), front)
    track = polygon(
        *smooth([(300, 318), (286, 346), (318, 384), (262, 460)], closed=False),
        *smooth([(342, 460), (352, 384), (306, 346), (312, 318)], closed=False),
    )
    canvas.paint("#93a6cf", track, blur=1.5, opacity=0.6)
    for x in (112, 228, 432, 543):
        canvas.glow(x, 356, 44, "#ffdf94", 0.4)
    for x, foot, height in ((24, 408, 150), (74, 428, 104), (566, 420, 164), (516, 436, 92)):
        _snowy_pine(canvas, rng, x, foot, height)
    for size, count in ((0.8, 170), (1.4, 90), (2.3, 40)):
        flakes = (ellipse(rng.uniform(0, 608), rng.uniform(0, 456), size, size) for _ in range(count))
        canvas.paint("#ffffff", *flakes, blur=size * 0.25, opacity=0.9)
    return canvas


def _snowy_house(canvas: Canvas, x: float, foot: float, width: float, wall: str) -> None:
    top, half = foot - width * 0.5, width / 2
    middle, peak = x + half, top - width * 0.42
    canvas.paint("#5a4038", box(x + width * 0.7, peak + 2, x + width * 0.82, top))
    canvas.paint("#ffffff", box(x + width * 0.685, peak - 2, x + width * 0.835, peak + 4, 2))
    canvas.paint(
        canvas.horizontal((x, mix(wall, "#ffffff", 0.12)), (x + width, mix(wall, "#101830", 0.35))),
        box(x, top, x + width, foot + 24),
        polygon((x, top), (middle, peak), (x + width, top)),
    )
    eaves = width * 0.09
    slope = [(x - eaves, top + eaves * 0.8), (middle, peak - 4), (x + width + eaves, top + eaves * 0.8)]
    canvas.paint("#ffffff", stroke(width * 0.12, *slope))
    canvas.paint("#a9bbe0", stroke(width * 0.03, *[(a, b + width * 0.055) for a, b in slope]), opacity=0.9)
    panes = [(x + width * share, top + width * 0.14) for share in (0.13, 0.65)]
    size = width * 0.22
    lit = [box(a, b, a + size, b + size) for a, b in panes] + [
        box(middle - size * 0.3, peak + width * 0.2, middle + size * 0.3, peak + width * 0.34)
    ]
    canvas.paint("#ffd27a", *lit, blur=5, opacity=0.7)
    canvas.paint("#ffe29a", *lit)
    bars = [box(a + size * 0.45, b, a + size * 0.55, b + size) for a, b in panes]
    bars += [box(a, b + size * 0.45, a + size, b + size * 0.55) for a, b in panes]
    canvas.paint("#6b4630", *bars)
    canvas.paint("#4a2f22", box(middle - width * 0.075, foot - width * 0.3, middle + width * 0.075, foot + 24))


def _church(canvas: Canvas, x: float, foot: float) -> None:
    wall = canvas.horizontal((x - 22, "#e9e4da"), (x + 60, "#8f93ae"))
    canvas.paint(wall, box(x + 10, foot - 46, x + 76, foot + 20))
    canvas.paint("#ffffff", polygon((x + 8, foot - 44), (x + 14, foot - 74), (x + 70, foot - 74), (x + 80, foot - 44)))
    canvas.paint(
        canvas.horizontal((x - 18, "#f2ede2"), (x + 18, "#a3a3b8")), box(x - 18, foot - 112, x + 18, foot + 20)
    )
    canvas.paint("#3d4f78", polygon((x - 22, foot - 110), (x, foot - 186), (x + 22, foot - 110)))
    canvas.paint(
        "#ffffff",
        polygon((x - 22, foot - 110), (x - 2, foot - 180), (x, foot - 186), (x - 1, foot - 130), (x - 8, foot - 112)),
    )
    canvas.paint(
        "#e8c25a", stroke(1.8, (x, foot - 186), (x, foot - 204)), stroke(1.8, (x - 5, foot - 198), (x + 5, foot - 198))
    )
    canvas.paint("#ffffff", ellipse(x, foot - 88, 9, 9))
    canvas.paint(
        "#2f3650", stroke(1.2, (x, foot - 88), (x, foot - 94)), stroke(1.2, (x, foot - 88), (x + 4, foot - 86))
    )
    windows = [(x + place, foot - 34) for place in (24, 42, 60)]
    arches = [box(a - 4, b, a + 4, b + 20) for a, b in windows] + [ellipse(a, b, 4, 5) for a, b in windows]
    canvas.paint("#ffd27a", *arches, blur=3, opacity=0.7)
    canvas.paint("#ffe29a", *arches)
    canvas.paint("#5a3c2a", box(x - 7, foot - 24, x + 7, foot + 20), ellipse(x, foot - 24, 7, 7))


def _snowy_pine(canvas: Canvas, rng: np.random.Generator, x: float, foot: float, height: float) -> None:
    canvas.paint("#6f83b4", ellipse(x, foot, height * 0.24, height * 0.045), blur=4, opacity=0.7)
    canvas.paint("#3a2a22", box(x - height * 0.03, foot - height * 0.12, x + height * 0.03, foot))
    for tier in range(5):
        bottom = foot - height * (0.08 + 0.17 * tier)
        half, rise = height * (0.25 - 0.04 * tier), height * 0.29
        layer = [
            (x, bottom - rise),
            (x + half * 0.5, bottom - rise * 0.4),
            (x + half, bottom),
            (x + half * 0.4, bottom - rise * 0.06),
            (x, bottom + rise * 0.04),
            (x - half * 0.4, bottom - rise * 0.06),
            (x - half, bottom),
            (x - half * 0.5, bottom - rise * 0.4),
        ]
        body = polygon(*layer)
        canvas.paint(canvas.horizontal((x - half, "#3a6f58"), (x + half, "#1c3f3a")), body)
        edge = [
            (x + half * a, bottom - rise * b + rng.uniform(-1, 1))
            for a, b in ((-1, 0.0), (-0.62, 0.3), (-0.3, 0.22), (0, 0.42), (0.3, 0.24), (0.62, 0.3), (1, 0.0))
        ]
        canvas.paint(
            "#f4f8ff",
            polygon((x, bottom - rise - 4), (x + half + 4, bottom - 2), *reversed(edge), (x - half - 4, bottom - 2)),
            within=[body],
        )
