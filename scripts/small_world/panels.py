"""PNGs of the docs: held-out pictures with reconstruction and caption, and compositions of two pictures.

Small pictures are enlarged by whole factors without smoothing, so that every pixel is seen as it is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vlv.shapes.measures import facts, faults
from vlv.shapes.picture_oracle import read_pictures
from vlv.shapes.render import RESOLUTION
from vlv.shapes.report import Example
from vlv.shapes.scene import Scene

_GAP, _LINE, _FONT_SIZE = 12, 17, 13
_INK, _WRONG, _LABEL, _FRAME = (34, 34, 34), (200, 30, 30), (90, 90, 90), (210, 210, 210)
_CARD_SIDE, _COMPOSITION_SIDE = 3 * RESOLUTION, 2 * RESOLUTION
Line = tuple[str, tuple[int, int, int]]


def caption_panel(examples: Sequence[Example], columns: int = 3) -> Image.Image:
    """The examples as cards in a grid: both pictures, what is wrong in the reconstruction, and the caption.

    A sentence of the caption that is wrong in any part is red, as is a fault of the reconstruction.
    """
    reconstructions = [_open(example.reconstruction) for example in examples]
    readings = read_pictures(reconstructions)
    below = [
        _fault_lines(reading.scene, example.scene) + _caption_lines(example)
        for reading, example in zip(readings, examples, strict=True)
    ]
    rows = [range(start, min(len(examples), start + columns)) for start in range(0, len(examples), columns)]
    heights = [_LINE + _CARD_SIDE + _GAP // 2 + max(len(below[n]) for n in row) * _LINE + 2 * _GAP for row in rows]
    card = 2 * _CARD_SIDE + _GAP
    panel = Image.new("RGB", (min(columns, len(examples)) * (card + 2 * _GAP), sum(heights) + _GAP), "white")
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for place, number in enumerate(row):
            left = _GAP + place * (card + 2 * _GAP)
            both = (("original", _open(examples[number].original)), ("reconstruction", reconstructions[number]))
            for side, (label, picture) in enumerate(both):
                x = left + side * (_CARD_SIDE + _GAP)
                _write(panel, x, top, [(label, _LABEL)])
                _paste(panel, picture, x, top + _LINE, _CARD_SIDE)
            _write(panel, left, top + _LINE + _CARD_SIDE + _GAP // 2, below[number])
        top += height
    return panel


def composition_panel(pairs: Sequence[tuple[Scene, Scene]], *rows: Sequence[Image.Image]) -> Image.Image:
    """A column for each pair: both originals, and below them the pictures generated from their joined embeddings.

    Args:
        rows: the first pictures, the second ones, those from the first halves of both, those from all rows of both, and
            those in which the second's shapes are put into the first by their regions.
    """
    names = ("first original", "second original", "first half of each", "all rows of each", "by region")
    side, left = _COMPOSITION_SIDE, 150
    height = side + _LINE + _GAP
    panel = Image.new("RGB", (left + len(pairs) * (side + _GAP) + _GAP, len(rows) * height + _GAP), "white")
    for number, (name, pictures) in enumerate(zip(names, rows, strict=True)):
        top = _GAP + number * height
        _write(panel, _GAP, top + side // 2 - _LINE, [(line, _LABEL) for line in textwrap.wrap(name, 18)])
        for column, pair in enumerate(pairs):
            x = left + column * (side + _GAP)
            _paste(panel, pictures[column], x, top, side)
            if number >= 2:  # a generated one
                _write(panel, x, top + side + 1, [_holds(pictures[column], pair)])
    return panel


def _holds(picture: Image.Image, pair: tuple[Scene, Scene]) -> Line:
    shown = set(facts(read_pictures([picture])[0].scene.items))
    first, second = (bool(shown & set(facts(scene.items))) for scene in pair)
    text = {(True, True): "shapes of both", (True, False): "of the first", (False, True): "of the second"}
    return text.get((first, second), "of neither"), _INK if first and second else _WRONG


def _fault_lines(read: Scene, scene: Scene) -> list[Line]:
    """What the oracle finds wrong in a reconstruction; a slight drift within one colour is none to it."""
    return [(f"reconstruction: {fault}", _WRONG) for fault in faults(read, scene)]


def _caption_lines(example: Example) -> list[Line]:
    """Lines of a caption with their colours; each sentence begins a line of its own."""
    return [
        (line, _WRONG if wrong else _INK)
        for sentence, wrong in example.sentences
        for line in textwrap.wrap(sentence, width=60)
    ]


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _paste(panel: Image.Image, picture: Image.Image, x: int, y: int, side: int) -> None:
    panel.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
    ImageDraw.Draw(panel).rectangle((x, y, x + side - 1, y + side - 1), outline=_FRAME)


def _write(panel: Image.Image, x: int, y: int, lines: Sequence[Line]) -> None:
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(_FONT_SIZE)
    for number, (text, color) in enumerate(lines):
        pen.text((x, y + number * _LINE), text, fill=color, font=font)
