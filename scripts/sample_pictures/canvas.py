"""A canvas for pictures that are drawn by rule: shapes, gradients, soft edges and reflections.

Coordinates are pixels of the finished picture; it is drawn SCALE times as large and shrunk at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter

SCALE = 3

Point: TypeAlias = tuple[float, float]
Shape: TypeAlias = Callable[[ImageDraw.ImageDraw], None]
Stop: TypeAlias = tuple[float, str]
Fill: TypeAlias = str | Image.Image


class Canvas:
    """An RGB picture that shapes are painted on, from the back to the front."""

    def __init__(self, width: int, height: int) -> None:
        """Take the finished size in pixels; the picture starts black."""
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * SCALE, height * SCALE))

    def paint(
        self, fill: Fill, *shapes: Shape, blur: float = 0.0, opacity: float = 1.0, within: Sequence[Shape] = ()
    ) -> None:
        """Paint shapes as one layer, so that they do not darken each other where they overlap.

        Args:
            fill: a colour, or a gradient of this canvas.
            shapes: what is covered.
            blur: radius of the soft edge in pixels.
            opacity: 0 to 1.
            within: shapes that the layer is cut to, after the blur.
        """
        mask = self._mask(shapes, blur)
        if within:
            mask = ImageChops.multiply(mask, self._mask(within))
        self._lay(fill, mask, opacity)

    def glow(self, x: float, y: float, radius: float, colour: str, opacity: float = 1.0) -> None:
        """Paint light that fades out from a point."""
        rows, columns = self._grid()
        distance = np.hypot(columns - x, rows - y) / radius
        self._lay(colour, Image.fromarray((255 * np.exp(-3 * distance**2)).astype(np.uint8)), opacity)

    def cover(self, fill: Fill, field: np.ndarray, opacity: float = 1.0) -> None:
        """Paint by a coarse field of values 0 to 1, float [rows, columns], stretched over the canvas."""
        mask = Image.fromarray((255 * np.clip(field, 0, 1)).astype(np.uint8))
        self._lay(fill, mask.resize(self.image.size, Image.Resampling.BICUBIC), opacity)

    def vertical(self, *stops: Stop) -> Image.Image:
        """A gradient from top to bottom: (y, colour) in rising order of y."""
        column = _ramp(np.arange(self.image.height) / SCALE, stops)  # [H, 3]
        return Image.fromarray(np.repeat(column[:, None], self.image.width, axis=1))

    def horizontal(self, *stops: Stop) -> Image.Image:
        """A gradient from left to right: (x, colour) in rising order of x."""
        row = _ramp(np.arange(self.image.width) / SCALE, stops)  # [W, 3]
        return Image.fromarray(np.repeat(row[None], self.image.height, axis=0))

    def radial(self, x: float, y: float, *stops: Stop) -> Image.Image:
        """A gradient around a point: (distance, colour) in rising order of distance."""
        rows, columns = self._grid()
        return Image.fromarray(_ramp(np.hypot(columns - x, rows - y), stops))

    def ball(self, x: float, y: float, radius: float, light: str, middle: str, dark: str) -> None:
        """Paint a ball that is lit from the upper left, with a soft highlight."""
        left, top = int(x - radius) - 1, int(y - radius) - 1
        patch = Canvas(int(2 * radius) + 4, int(2 * radius) + 4)
        x, y = x - left, y - top
        body = ellipse(x, y, radius, radius)
        focus = (x - 0.35 * radius, y - 0.4 * radius)
        patch.image = patch.radial(*focus, (0, light), (0.79 * radius, middle), (1.4 * radius, dark))
        spot = ellipse(x - 0.38 * radius, y - 0.45 * radius, 0.2 * radius, 0.14 * radius)
        patch.paint("#ffffff", spot, blur=0.1 * radius, opacity=0.75)
        self.image.paste(patch.image, (left * SCALE, top * SCALE), patch._mask([body]))

    def reflect(
        self, level: float, rng: np.random.Generator, ripple: float = 3.0, dim: float = 0.75, streak: float = 0.0
    ) -> None:
        """Mirror what stands above `level` into the water below it.

        Args:
            level: the water line, in pixels from the top.
            rng: phases of the ripples.
            ripple: the largest shift to the side in pixels.
            dim: how bright the mirrored picture is, 0 to 1.
            streak: how far lights are drawn out up and down, in pixels.
        """
        drawn_out = self.image.filter(ImageFilter.BoxBlur((0.3 * SCALE if streak else 0, streak * SCALE)))
        pixels = np.asarray(self.image).copy()
        mirrored = np.asarray(drawn_out)
        line = round(level * SCALE)
        depth = np.arange(pixels.shape[0] - line)
        source = np.clip(line - 1 - depth, 0, None)
        near = depth / max(1, len(depth))  # ripples widen towards the viewer
        waves = sum(
            np.sin(depth / SCALE / period + phase)
            for period, phase in zip((0.8, 1.7, 3.9), rng.uniform(0, 6.28, 3), strict=True)
        )
        shift = np.round(ripple * SCALE * (0.25 + near) * waves / 3).astype(int)
        columns = np.clip(np.arange(pixels.shape[1])[None] + shift[:, None], 0, pixels.shape[1] - 1)
        pixels[line:] = (mirrored[source[:, None], columns] * dim).astype(np.uint8)
        self.image = Image.fromarray(pixels)

    def finish(self) -> Image.Image:
        """The picture in its finished size."""
        return self.image.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def _mask(self, shapes: Sequence[Shape], blur: float = 0.0) -> Image.Image:
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            shape(draw)
        return mask.filter(ImageFilter.GaussianBlur(blur * SCALE)) if blur else mask

    def _lay(self, fill: Fill, mask: Image.Image, opacity: float) -> None:
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
        if isinstance(fill, str):
            self.image.paste(ImageColor.getrgb(fill), (0, 0), mask)
        else:
            self.image.paste(fill, (0, 0), mask)

    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.ogrid[: self.image.height, : self.image.width]
        return rows / SCALE, columns / SCALE


def polygon(*points: Point) -> Shape:
    """A filled polygon."""
    return lambda draw: draw.polygon(_scaled(points), fill=255)


def ellipse(x: float, y: float, rx: float, ry: float) -> Shape:
    """A filled ellipse around (x, y)."""
    return lambda draw: draw.ellipse(_scaled([(x - rx, y - ry), (x + rx, y + ry)]), fill=255)


def box(left: float, top: float, right: float, bottom: float, radius: float = 0) -> Shape:
    """A filled rectangle; `radius` rounds its corners."""
    corners = [(left, top), (right, bottom)]
    return lambda draw: draw.rounded_rectangle(_scaled(corners), radius * SCALE, fill=255)


def stroke(width: float, *points: Point) -> Shape:
    """A line through the points, with round ends and joints."""

    def draw_stroke(draw: ImageDraw.ImageDraw) -> None:
        draw.line(_scaled(points), fill=255, width=max(1, round(width * SCALE)), joint="curve")
        for x, y in (points[0], points[-1]):
            ellipse(x, y, width / 2, width / 2)(draw)

    return draw_stroke


def smooth(points: Sequence[Point], closed: bool = True, steps: int = 12) -> list[Point]:
    """A curve through the points (Catmull-Rom), as points of a polygon or a stroke."""
    nodes = np.array(points, dtype=float)
    if closed:
        nodes = np.concatenate([nodes[-1:], nodes, nodes[:2]])
    else:
        nodes = np.concatenate([2 * nodes[:1] - nodes[1:2], nodes, 2 * nodes[-1:] - nodes[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    curve = []
    for before, start, end, after in zip(nodes[:-3], nodes[1:-2], nodes[2:-1], nodes[3:], strict=True):
        bend, pull = 2 * before - 5 * start + 4 * end - after, 3 * start - before - 3 * end + after
        curve.append(0.5 * (2 * start + (end - before) * t + bend * t**2 + pull * t**3))
    line = np.concatenate([*curve, nodes[-2:-1]])
    return [(float(x), float(y)) for x, y in line]


def ridge(
    rng: np.random.Generator, width: float, level: float, height: float, cells: int, roughness: float = 0.5
) -> list[Point]:
    """A skyline from x=0 to `width` around y=`level`, at most about `height` off it: each octave has half the cells."""
    x = np.linspace(0, width, 400)
    y, size = np.zeros_like(x), 1.0
    for octave in range(5):
        count = cells * 2**octave
        y += size * np.interp(x, np.linspace(0, width, count + 1), rng.uniform(-1, 1, count + 1))
        size *= roughness
    return [(float(a), float(level + height * b)) for a, b in zip(x, y, strict=True)]


def ground(line: Sequence[Point], bottom: float) -> Shape:
    """Everything below a line, down to y=`bottom`."""
    return polygon((line[0][0], bottom), *line, (line[-1][0], bottom))


def mottle(rng: np.random.Generator, rows: int, columns: int, octaves: int = 4) -> np.ndarray:
    """Soft noise between 0 and 1, float [rows * 2**(octaves-1), columns * 2**(octaves-1)]."""
    size = (columns * 2 ** (octaves - 1), rows * 2 ** (octaves - 1))
    total = np.zeros(size[::-1])
    for octave in range(octaves):
        coarse = rng.random((rows * 2**octave, columns * 2**octave)).astype(np.float32)
        total += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) / 2**octave
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def mix(first: str, second: str, share: float) -> str:
    """A colour between two: `share` of the second, 0 to 1."""
    pairs = zip(ImageColor.getrgb(first)[:3], ImageColor.getrgb(second)[:3], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _ramp(values: np.ndarray, stops: Sequence[Stop]) -> np.ndarray:
    """Colours at `values` [...]: uint8 [..., 3]."""
    places = [place for place, _ in stops]
    colours = np.array([ImageColor.getrgb(colour)[:3] for _, colour in stops])
    return np.stack([np.interp(values, places, colours[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)
