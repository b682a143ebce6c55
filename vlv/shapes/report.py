"""One HTML page on runs of the embedded world: measures, pictures with captions (errors marked), loss curves."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vlv.shapes.measures import wrong_facts
from vlv.shapes.oracle import read_description
from vlv.shapes.scene import Scene

_WIDTH, _HEIGHT, _MARGIN = 420, 180, 34


@dataclass(frozen=True)
class Table:
    """A table of measures; the first column names the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One held-out picture, what was drawn back from it, and its caption."""

    scene: Scene
    original: Path
    reconstruction: Path
    caption: str


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of a run."""

    title: str
    points: Sequence[tuple[float, float]]


def read_curve(title: str, run: Path, metric: str) -> Curve:
    """A metric of a run's metrics.jsonl; empty where there is none."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return Curve(title, [(line["step"], line[metric]) for line in lines if metric in line])


def read_joined_curve(title: str, runs: Sequence[Path], metric: str) -> Curve:
    """A metric over runs that each went on from the last one's end, as one curve."""
    points: list[tuple[float, float]] = []
    for run in runs:
        start = points[-1][0] if points else 0
        points += [(start + step, value) for step, value in read_curve(title, run, metric).points]
    return Curve(title, points)


def write_report(
    path: Path,
    title: str,
    introduction: str,
    tables: Sequence[Table],
    examples: Sequence[Example],
    curves: Sequence[Curve],
    details: Sequence[Table] = (),
) -> None:
    """Write the page: tables, pictures, curves, tables of details.

    Pictures are embedded, so that it can be moved and mailed alone.
    """
    body = [f"<h1>{escape(title)}</h1><p>{escape(introduction)}</p>"]
    body += [_table(table) for table in tables]
    body.append("<h2>Held-out pictures: original, reconstruction, caption</h2>")
    body.append("<p>A sentence that is wrong in any part is <mark>marked</mark>.</p><div class=cards>")
    body += [_card(example) for example in examples]
    body.append("</div><h2>Training</h2><div class=curves>")
    body += [_curve(curve) for curve in curves if len(curve.points) > 1]
    body.append("</div>")
    body += [_table(table) for table in details]
    path.write_text(_PAGE.format(title=escape(title), body="\n".join(body)))


def mark_errors(caption: str, scene: Scene) -> str:
    """The caption as HTML, each sentence that says anything wrong in <mark>."""
    return "".join(
        f"<mark>{escape(sentence)}</mark>" if wrong else escape(sentence)
        for sentence, wrong in split_sentences(caption, scene)
    )


def split_sentences(caption: str, scene: Scene) -> list[tuple[str, bool]]:
    """The caption's sentences, each with whether it says anything wrong of the scene."""
    return [(sentence, _is_wrong(sentence, scene)) for sentence in re.findall(r"[^.]+\.?\s*|\.\s*", caption)]


def _is_wrong(sentence: str, scene: Scene) -> bool:
    said = read_description(sentence)
    ground = said.background is not None and said.background != scene.background
    return ground or said.miscounts(scene) or bool(wrong_facts(said, scene)) or said.false_relations(scene) > 0


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>{note}"


def _card(example: Example) -> str:
    pictures = "".join(
        f'<img alt="{label}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        for label, path in (("original", example.original), ("reconstruction", example.reconstruction))
    )
    return f"<div class=card>{pictures}<p>{mark_errors(example.caption, example.scene)}</p></div>"


def _curve(curve: Curve) -> str:
    """The curve as SVG, with its first, lowest and last values."""
    steps, values = [x for x, _ in curve.points], [y for _, y in curve.points]
    low, high, last = min(values), max(values), max(steps)
    span = (high - low) or 1.0
    points = " ".join(
        f"{_MARGIN + (x / last) * (_WIDTH - 2 * _MARGIN):.1f},"
        f"{_HEIGHT - _MARGIN - (y - low) / span * (_HEIGHT - 2 * _MARGIN):.1f}"
        for x, y in curve.points
    )
    bottom = _HEIGHT - _MARGIN
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<polyline points="{points}" fill="none" stroke="#2646d2" stroke-width="1.6"/>'
        f'<path d="M{_MARGIN} {_MARGIN - 8}V{bottom}H{_WIDTH - _MARGIN + 8}" fill="none" stroke="#999"/>'
        f'<text x="2" y="{_MARGIN}">{high:.3g}</text><text x="2" y="{bottom}">{low:.3g}</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 14}">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 14}" text-anchor="end">step {last:,.0f}</text></svg>'
        f"<figcaption>{escape(curve.title)}: {values[0]:.3g} to {values[-1]:.3g}</figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1060px; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-top: 2rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 1rem }}
.card {{ border: 1px solid #ddd; border-radius: 8px; padding: .7rem }}
.card img {{ width: 138px; height: 138px; image-rendering: pixelated; margin-right: 6px; border: 1px solid #eee }}
.card p {{ margin: .4rem 0 0; font-size: .88rem }}
mark {{ background: #ffd3d3 }} .note {{ color: #666; font-size: .88rem }}
.curves {{ display: flex; flex-wrap: wrap; gap: 1rem }} figure {{ margin: 0 }}
svg text {{ font: 11px system-ui, sans-serif; fill: #666 }} figcaption {{ font-size: .85rem; color: #444 }}
</style>
{body}
</html>
"""
