"""One HTML page on runs of the small world: measures, pictures with captions (errors marked), loss curves."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlv.shapes.faults import what_is_false
from vlv.shapes.scene import Scene
from vlv.shapes.text_oracle import read_description

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
    """One held-out picture, its reconstruction, and its caption."""

    scene: Scene
    original: Path
    reconstruction: Path
    caption: str

    @property
    def sentences(self) -> list[tuple[str, bool]]:
        """The caption's sentences, each with whether it states anything wrong."""
        return split_sentences(self.caption, self.scene)

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """Both pictures as (label, base64 of the file), so that the page can be moved and mailed alone."""
        files = (("original", self.original), ("reconstruction", self.reconstruction))
        return [(label, base64.b64encode(path.read_bytes()).decode()) for label, path in files]


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of a run."""

    title: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Report:
    """What the page shows: tables, pictures, curves, tables of details."""

    title: str
    introduction: str
    tables: Sequence[Table]
    examples: Sequence[Example]
    curves: Sequence[Curve]
    details: Sequence[Table] = ()
    examples_note: str = "A sentence that is wrong in any part is marked."


def read_curve(title: str, run: Path, metric: str) -> Curve:
    """A metric of a run's metrics.jsonl; empty where there is none."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return Curve(title, [(line["step"], line[metric]) for line in lines if line.get(metric) is not None])


def write_report(path: Path, report: Report) -> None:
    """Write the page."""
    from jinja2 import Environment, PackageLoader

    # autoescape: captions are a model's output, and must not become HTML.
    environment = Environment(loader=PackageLoader("vlv.shapes"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    curves = [_plot(curve) for curve in report.curves if len(curve.points) > 1]
    path.write_text(environment.get_template("report.html").render(report=report, curves=curves), encoding="utf-8")


def split_sentences(caption: str, scene: Scene) -> list[tuple[str, bool]]:
    """The caption's sentences, each with whether it states anything wrong of the scene."""
    found, read, before = [], "", Counter()
    for sentence in re.findall(r"[^.]+\.?\s*|\.\s*", caption):
        read += sentence  # with what stands before it, which says what "it" and "the star" are
        false = Counter(what_is_false(read_description(read), scene))
        found.append((sentence, bool(false - before)))
        before = false
    return found


def has_errors(caption: str, scene: Scene) -> bool:
    """Whether any sentence states anything wrong of the scene."""
    return any(wrong for _, wrong in split_sentences(caption, scene))


@dataclass(frozen=True)
class Plot:
    """A curve as the page's SVG wants it: points in pixels, and the labels of its axes."""

    caption: str
    points: str
    high: str
    low: str
    last_step: str
    width: int = _WIDTH
    height: int = _HEIGHT
    margin: int = _MARGIN


def _plot(curve: Curve) -> Plot:
    steps, values = [x for x, _ in curve.points], [y for _, y in curve.points]
    low, high, last = min(values), max(values), max(steps)
    span = (high - low) or 1.0  # a flat curve has none
    points = " ".join(
        f"{_MARGIN + (x / last) * (_WIDTH - 2 * _MARGIN):.1f},"
        f"{_HEIGHT - _MARGIN - (y - low) / span * (_HEIGHT - 2 * _MARGIN):.1f}"
        for x, y in curve.points
    )
    caption = f"{curve.title}: {values[0]:.3g} to {values[-1]:.3g}"
    return Plot(caption, points, f"{high:.3g}", f"{low:.3g}", f"{last:,.0f}")
