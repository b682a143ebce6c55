"""The chart of the docs: F1 of captions and pictures by the number of embedding rows that are kept, as an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlv.atomic import whole_file

_WIDTH, _HEIGHT = 640, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 400, 18, 280
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_GRID, _TEXT = "#dddddd", "#333333"
# Name in the results, label, colour, dashes.
_LINES = (
    ("nested_caption_f1", "captions, nested dropout", "#1f5fb4", ""),
    ("plain_caption_f1", "captions, without", "#1f5fb4", "5 4"),
    ("nested_reconstruction_f1", "pictures, nested dropout", "#c4561c", ""),
    ("plain_reconstruction_f1", "pictures, without", "#c4561c", "5 4"),
)


def write_rows_chart(path: Path, row: Mapping[str, float], kept: Sequence[int]) -> None:
    """Write the chart.

    Args:
        row: the results' row `rows_kept`, with `<line>_of_<n>` for each line and each n.
        kept: the numbers of rows, ascending.
    """
    parts = [_axes(kept)]
    for number, (name, label, colour, dashes) in enumerate(_LINES):
        points = [(_x(n, kept), _y(row[f"{name}_of_{n}"])) for n in kept]
        stroke = f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dashes}"' if dashes else "")
        parts.append(f'<polyline fill="none" {stroke} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = _TOP + 20 + 24 * number
        parts.append(f'<line x1="{_RIGHT + 24}" y1="{y}" x2="{_RIGHT + 56}" y2="{y}" {stroke}/>')
        parts.append(_text(_RIGHT + 64, y + 4, label))
    title = "F1 by the number of embedding rows kept"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">'
    body = "\n".join((head, f"<title>{title}</title>", f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'))
    with whole_file(path) as temporary:
        temporary.write_text("\n".join((body, *parts, "</svg>")) + "\n")


def _axes(kept: Sequence[int]) -> str:
    parts: list[str] = []
    for value in _TICKS:
        y = _y(value)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{value:.1f}", anchor="end"))
    parts += [_text(_x(n, kept), _BOTTOM + 18, str(n), anchor="middle") for n in kept]
    parts.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, "rows kept", anchor="middle"))
    parts.append(_text(8, _TOP + 2, "F1"))
    return "\n".join(parts)


def _x(rows: int, kept: Sequence[int]) -> float:
    return _LEFT + 12 + (_RIGHT - _LEFT - 24) * (rows - kept[0]) / (kept[-1] - kept[0])


def _y(f1: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP - 10) * f1


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    style = f'font-family="sans-serif" font-size="13" fill="{_TEXT}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{text}</text>'
