"""Results of the embedded world's rows as one table, and one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlv.shapes.runs import reading_run, seconds_of

COLUMNS = {
    "caption_f1": "caption F1",
    "caption_exact": "exact",
    "caption_hallucinations": "halluc.",
    "caption_spatial_error": "spatial err.",
    "reconstruction_f1": "reconstr. F1",
    "own_reconstruction_f1": "after stage 2",
    "fd_efficientnet_lite0": "FD",
}
OTHER_MEASURES = ("family", "guidance", "composition")  # rows that are tables of their own
EXAMPLES = 24


def write_results(out: Path, titles: dict[str, str]) -> None:
    """Write results.json, table.md and report.html from the rows that are there."""
    rows = {name: json.loads(path.read_text()) for name in titles if (path := out / "rows" / f"{name}.json").exists()}
    (out / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    cells = [
        (titles[name], *(_cell(row.get(column)) for column in COLUMNS))
        for name, row in rows.items()
        if name not in OTHER_MEASURES
    ]
    head = ("row", *COLUMNS.values())
    text = _markdown(head, cells)
    for name in OTHER_MEASURES:
        if name in rows:
            text += "\n" + _markdown((titles[name], "value"), _values(rows[name]))
    (out / "table.md").write_text(text)
    _write_page(out, rows, titles, head, cells)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, ["---"] * len(head), *rows))


def _values(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _cell(value)) for key, value in row.items()]


def _write_page(
    out: Path, rows: dict[str, Any], titles: dict[str, str], head: tuple[str, ...], cells: list[tuple[str, ...]]
) -> None:
    from vlv.shapes.report import Example, Table, read_joined_curve, write_report
    from vlv.shapes.writing import named_scene

    details = [
        Table(titles[name].capitalize(), ("measure", "value"), _values(rows[name]))
        for name in (*OTHER_MEASURES, "one_encoder", "full")
        if name in rows
    ]
    measured, test = out / "measured", out / "data" / "test"
    shown = next((measured / name for name in rows if name in ("one_encoder", "full")), measured)
    captions = shown / "captions.json"
    texts = json.loads(captions.read_text()) if captions.exists() else {}
    drawn = shown / "pictures" / "reconstructions"
    examples = [
        Example(named_scene(name), test / name, drawn / name, text)
        for name, text in list(texts.items())[:EXAMPLES]
        if (drawn / name).exists()
    ]
    full = out / "full"
    legs = [*sorted(full.glob("stage1_leg*")), full / "stage1"]
    times = [seconds_of(run) for run in out.glob("*/stage*")]
    hours = None if None in times else sum(time or 0 for time in times) / 3600  # nobody timed what was interrupted
    write_report(
        out / "report.html",
        "VLV on the embedded world",
        "A frozen text-to-image model, shown pictures alone, taught the encoder."
        + ("" if hours is None else f" Trainings so far: {hours:.1f} hours."),
        [Table("Rows, on held-out scenes", head, cells)],
        examples,
        [
            read_joined_curve("stage 1, denoising loss", legs, "train/loss"),
            read_joined_curve("stage 1, validation loss", legs, "val/loss"),
            read_joined_curve("stage 2, caption loss", [reading_run(full / "stage2"), full / "stage2"], "train/loss"),
        ],
        details,
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
