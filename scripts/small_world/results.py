"""Results of the small world's rows as one table, and one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.small_world.evaluate import Result
from vlv.shapes.report import Example, Report, Table, read_curve, write_report
from vlv.shapes.runs import seconds_of
from vlv.shapes.writing import named_scene

COLUMNS = {
    "caption_f1": "caption F1",
    "caption_exact": "exact",
    "caption_hallucinations": "halluc.",
    "caption_spatial_error": "spatial err.",
    "reconstruction_f1": "reconstr. F1",
    "reconstruction_clean": "clean",
    "own_reconstruction_f1": "after stage 2",
    "fd_efficientnet_lite0": "FD",
}
OTHER_MEASURES = ("family", "guidance", "composition", "rows_kept")  # rows that are tables of their own
EXAMPLES = 24
HEAD = ("row", *COLUMNS.values())


def write_results(out: Path, titles: dict[str, str]) -> None:
    """Write results.json, table.md and report.html from the rows that are there."""
    paths = {name: out / "rows" / f"{name}.json" for name in titles}
    rows: dict[str, Result] = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    (out / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (out / "table.md").write_text(markdown(rows, titles))
    _write_page(out, rows, titles)


def markdown(rows: Mapping[str, Result], titles: Mapping[str, str]) -> str:
    """The tables of the docs."""
    text = _markdown(HEAD, _row_cells(rows, titles))
    for name in OTHER_MEASURES:
        if name in rows:
            text += "\n" + _markdown((titles[name], "value"), _values(rows[name]))
    return text


def _row_cells(rows: Mapping[str, Result], titles: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [
        (titles[name], *(_cell(row.get(column)) for column in COLUMNS))
        for name, row in rows.items()
        if name not in OTHER_MEASURES
    ]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, ["---"] * len(head), *rows))


def _values(row: Result) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _cell(value)) for key, value in row.items()]


def _write_page(out: Path, rows: Mapping[str, Result], titles: Mapping[str, str]) -> None:
    details = [
        Table(titles[name].capitalize(), ("measure", "value"), _values(rows[name]))
        for name in (*OTHER_MEASURES, "full")
        if name in rows
    ]
    full = out / "full"
    seconds = seconds_of(*out.glob("*/stage*"))
    write_report(
        out / "report.html",
        Report(
            title="VLV on the small world",
            introduction="Stage 1 was trained on pictures alone, by a frozen text-to-image model."
            + (f" Trainings so far: {seconds / 3600:.1f} hours." if seconds else ""),
            tables=[Table("Rows, on held-out scenes", HEAD, _row_cells(rows, titles))],
            examples=_examples(out, rows),
            curves=[
                read_curve("stage 1, denoising loss", full / "stage1", "train/loss"),
                read_curve("stage 1, validation loss", full / "stage1", "val/loss"),
                read_curve("stage 2, caption loss", full / "stage2", "train/loss"),
            ],
            details=details,
        ),
    )


def _examples(out: Path, rows: Mapping[str, Result]) -> list[Example]:
    """The first test pictures with captions and reconstructions of the full recipe."""
    shown = out / "measured" / "full"
    if "full" not in rows or not (captions := shown / "captions.json").exists():
        return []
    reconstructions, test = shown / "pictures" / "reconstructions", out / "data" / "test"
    return [
        Example(named_scene(name), test / name, reconstructions / name, text)
        for name, text in list(json.loads(captions.read_text()).items())[:EXAMPLES]
        if (reconstructions / name).exists()
    ]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
