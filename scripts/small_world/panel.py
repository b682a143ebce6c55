"""One PNG of held-out pictures: each beside what was drawn back from its embeddings, with its caption below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vlv.shapes.report import Example, split_sentences

_SIDE, _GAP, _LINE, _FONT_SIZE = 160, 12, 16, 12
_CARD = 2 * _SIDE + _GAP
_INK, _WRONG, _LABEL = (34, 34, 34), (200, 30, 30), (110, 110, 110)


def draw_panel(examples: Sequence[Example], columns: int = 3) -> Image.Image:
    """The examples as cards in a grid; a sentence that is wrong in any part is red.

    Pictures are shown at 160 px, without smoothing.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    texts = [_lines(example) for example in examples]
    rows = [range(start, min(len(examples), start + columns)) for start in range(0, len(examples), columns)]
    heights = [_LINE + _SIDE + _GAP // 2 + max(len(texts[n]) for n in row) * _LINE + 2 * _GAP for row in rows]
    width = min(columns, len(examples)) * (_CARD + 2 * _GAP)
    panel = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    pen = ImageDraw.Draw(panel)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for place, number in enumerate(row):
            left = _GAP + place * (_CARD + 2 * _GAP)
            example = examples[number]
            sides = (("image", example.original), ("drawn back", example.reconstruction))
            for side, (label, path) in enumerate(sides):
                x = left + side * (_SIDE + _GAP)
                pen.text((x, top), label, fill=_LABEL, font=font)
                with Image.open(path) as picture:
                    shown = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
                panel.paste(shown, (x, top + _LINE))
                pen.rectangle((x, top + _LINE, x + _SIDE - 1, top + _LINE + _SIDE - 1), outline=(210, 210, 210))
            for line, (text, color) in enumerate(texts[number]):
                pen.text((left, top + _LINE + _SIDE + _GAP // 2 + line * _LINE), text, fill=color, font=font)
        top += height
    return panel


def _lines(example: Example) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines of a caption with their colours; each sentence begins a line of its own."""
    return [
        (line, _WRONG if wrong else _INK)
        for sentence, wrong in split_sentences(example.caption, example.scene)
        for line in textwrap.wrap(sentence, width=56)
    ]
