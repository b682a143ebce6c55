"""A city's skyline at night, above a river."""

from __future__ import annotations

import numpy as np

from scripts.sample_pictures.canvas import Canvas, Shape, box, ellipse, polygon, stroke

LAMPS = ("#ffe9a8", "#ffd27a", "#fff4d0", "#bfe0ff")


def draw_city(rng: np.random.Generator) -> Canvas:
    """Towers with lit windows under a full moon, mirrored in water."""
    canvas, level = Canvas(448, 640), 470
    sky = canvas.vertical((0, "#070b24"), (220, "#16245a"), (400, "#3d3f86"), (470, "#8a5d96"))
    canvas.paint(sky, box(0, 0, 448, 640))
    stars = [ellipse(rng.uniform(0, 448), 300 * rng.random() ** 1.4, r, r) for r in rng.uniform(0.35, 1.05, 90)]
    canvas.paint("#e8ecff", *stars)
    canvas.glow(330, 96, 120, "#c9d4ff", 0.5)
    canvas.paint(canvas.radial(322, 88, (0, "#fffdf0"), (34, "#f3ecd2"), (48, "#d8d2c0")), ellipse(330, 96, 34, 34))
    craters = [ellipse(x, y, r, r * 0.9) for x, y, r in ((318, 88, 7), (340, 104, 9), (344, 82, 4), (322, 112, 5))]
    canvas.paint("#cdc6b4", *craters, blur=1.5, opacity=0.7)
    for x in range(-8, 448, 21):
        height = rng.uniform(70, 190)
        canvas.paint("#2b3070", box(x, level - height, x + rng.uniform(17, 26), level))
    canvas.glow(224, level, 330, "#ff9fb0", 0.28)
    towers = (
        (-6, 60, 172, "#141a40"),
        (50, 46, 250, "#1a2150"),
        (92, 62, 198, "#10163a"),
        (262, 54, 226, "#182050"),
        (312, 44, 300, "#121840"),
        (352, 60, 186, "#1a2252"),
        (408, 50, 240, "#10163a"),
        (150, 40, 150, "#0e1334"),
        (232, 40, 140, "#0e1334"),
    )
    for x, width, height, colour in towers:
        _tower(canvas, rng, x, level - height, width, level, colour)
    canvas.paint("#121840", polygon((312, 171), (334, 140), (356, 171)))
    canvas.paint("#1a2150", box(58, 212, 88, 222), box(64, 203, 82, 214))
    canvas.paint("#8f9ad8", stroke(1.4, (73, 203), (73, 168)))
    canvas.paint("#ff5a5a", ellipse(73, 167, 2.4, 2.4))
    _spire(canvas, rng, 208, level)
    canvas.paint("#0a0e26", box(0, level - 9, 448, level))
    lamps = [ellipse(x, level - 13, 2, 2) for x in range(10, 448, 24)]
    canvas.paint("#0a0e26", *(stroke(1, (x, level - 13), (x, level)) for x in range(10, 448, 24)))
    canvas.paint("#ffdf94", *lamps, blur=3, opacity=0.9)
    canvas.paint("#fff2c4", *lamps)
    canvas.reflect(level, rng, ripple=3.0, dim=0.8, streak=5)
    canvas.paint(canvas.vertical((level, "#1a2560"), (640, "#060a20")), box(0, level, 448, 640), opacity=0.38)
    glints = [ellipse(rng.uniform(0, 448), y, rng.uniform(4, 18), 0.6) for y in rng.uniform(level + 6, 640, 130)]
    canvas.paint("#9fb4ff", *glints, opacity=0.25)
    return canvas


def _spire(canvas: Canvas, rng: np.random.Generator, x: float, level: float) -> None:
    """The tallest tower: three steps, a pointed roof and a mast."""
    for half, top in ((34, 286), (26, 196), (18, 130)):
        _tower(canvas, rng, x - half, top, 2 * half, level if half == 34 else top + 92, "#202a62")
    canvas.paint("#2b3678", polygon((x - 18, 131), (x, 74), (x + 18, 131)))
    canvas.paint("#202a62", polygon((x, 74), (x + 18, 131), (x + 2, 131)))
    canvas.paint("#c9d0ff", stroke(1.6, (x, 80), (x, 40)))
    canvas.glow(x, 40, 12, "#ff8a8a", 0.9)
    canvas.paint("#ff5a5a", ellipse(x, 40, 2.4, 2.4))


def _tower(
    canvas: Canvas, rng: np.random.Generator, x: float, top: float, width: float, bottom: float, colour: str
) -> None:
    """A building with rows of windows, of which about half are lit."""
    body = box(x, top, x + width, bottom)
    canvas.paint(colour, body)
    canvas.paint("#000000", box(x + width * 0.72, top, x + width, bottom), opacity=0.22)
    canvas.paint("#6f7ac0", box(x, top, x + width, top + 1.6), opacity=0.7)
    lit: dict[str, list[Shape]] = {lamp: [] for lamp in LAMPS}
    dark: list[Shape] = []
    columns = max(2, int((width - 6) // 8))
    pitch = (width - 6) / columns
    for row in np.arange(top + 8, bottom - 14, 10.5):
        for column in range(columns):
            left = x + 3 + column * pitch + pitch * 0.2
            window = box(left, row, left + pitch * 0.6, row + 6)
            if rng.random() < 0.45:
                lit[LAMPS[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])]].append(window)
            else:
                dark.append(window)
    canvas.paint("#2f3a78", *dark, opacity=0.6)
    for lamp, windows in lit.items():
        if windows:
            canvas.paint(lamp, *windows, blur=1.6, opacity=0.35)
            canvas.paint(lamp, *windows)
