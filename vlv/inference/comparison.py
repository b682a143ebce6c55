"""Pictures side by side, each under its label, with the caption below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 256  # smaller pictures are enlarged: at 64 pixels nobody sees what is wrong with a reconstruction
GAP = 8  # white pixels between the pictures, and around the text
_TEXT_SIZE = 16
_LINE_HEIGHT = 22
LABEL_HEIGHT = _LINE_HEIGHT + 2
_INK, _SOFT_INK = (28, 28, 26), (106, 106, 101)


def comparison(pictures: Mapping[str, Image.Image], caption: str | None = None) -> Image.Image:
    """Put pictures of one size in a row, with their labels above and the caption below.

    Pictures below 256 pixels are enlarged by the whole factor that brings them there, without smoothing: each pixel
    becomes a square, and nothing is invented.

    Args:
        pictures: RGB pictures of one size, by label.
        caption: broken into lines of the row's width. What Pillow's own font has no letters for shows as boxes.
    """
    panels = [enlarged(picture) for picture in pictures.values()]
    width, height = panels[0].size
    row_width = len(panels) * (width + GAP) - GAP
    lines = [] if not caption else wrapped(caption, row_width - 2 * GAP)
    caption_height = len(lines) * _LINE_HEIGHT + 2 * GAP if lines else 0
    row = Image.new("RGB", (row_width, LABEL_HEIGHT + height + caption_height), "white")
    draw = ImageDraw.Draw(row)
    for place, (label, panel) in enumerate(zip(pictures, panels, strict=True)):
        left = place * (width + GAP)
        draw.text((left + 2, 2), label, fill=_SOFT_INK, font=_font())
        row.paste(panel, (left, LABEL_HEIGHT))
    for number, line in enumerate(lines):
        top = LABEL_HEIGHT + height + GAP + number * _LINE_HEIGHT
        draw.text((GAP, top), line, fill=_INK, font=_font())
    return row


def reconstruction_labels(seeds: Sequence[int]) -> list[str]:
    """How the pictures of an image are called: the original, then the reconstruction of each seed."""
    return ["original", *(["reconstruction"] if len(seeds) == 1 else [f"seed {seed}" for seed in seeds])]


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture by the least whole factor that brings its short side to `LEAST_SIDE` pixels, without smoothing."""
    factor = -(-LEAST_SIDE // min(picture.size))
    if factor <= 1:
        return picture
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels; a longer word is broken."""
    lines, line = [], ""
    for word in text.split():
        while True:
            longer = f"{line} {word}" if line else word
            if _font().getlength(longer) <= width:
                line = longer
                break
            if line:
                lines.append(line)
                line = ""
                continue
            # A word by itself is too long, as in languages without spaces: its first letters that fit.
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or _font().getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
    return [*lines, line] if line else lines


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_TEXT_SIZE)
