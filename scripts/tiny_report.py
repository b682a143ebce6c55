"""Results of the embedded world's rows as one table, and one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.tiny_runs import seconds_of

COLUMNS = {
    "caption_f1": "caption F1",
    "caption_exact": "exact",
    "caption_hallucinations": "halluc.",
    "caption_spatial_error": "spatial err.",
    "reconstruction_f1": "reconstr. F1",
    "own_reconstruction_f1": "after stage 2",
    "fd_efficientnet_lite0": "FD",
}
EXAMPLES = 24


def write_results(out: Path, titles: dict[str, str]) -> None:
    """Write results.json, table.md and report.html from the rows that are there."""
    rows = {name: json.loads(path.read_text()) for name in titles if (path := out / "rows" / f"{name}.json").exists()}
    (out / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    cells = [(titles[name], *(_cell(row.get(column)) for column in COLUMNS)) for name, row in rows.items()]
    head = ("row", *COLUMNS.values())
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells)]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    _write_page(out, rows, head, cells)


def _write_page(out: Path, rows: dict[str, Any], head: tuple[str, ...], cells: list[tuple[str, ...]]) -> None:
    from vlv.shapes.report import Example, Table, read_curve, read_joined_curve, write_report
    from vlv.shapes.writing import named_scene

    tables = [Table("Rows, on 1,000 held-out scenes", head, cells)]
    for name, title in (("guidance", "By guidance"), ("composition", "Composition"), ("full", "Full recipe, all")):
        if name in rows:
            values = [(key.replace("_", " "), _cell(value)) for key, value in rows[name].items()]
            tables.append(Table(title, ("measure", "value"), values))
    measured, test = out / "measured" / "full", out / "data" / "test"
    captions = measured / "captions.json"
    texts = json.loads(captions.read_text()) if captions.exists() else {}
    drawn = measured / "pictures" / "reconstructions"
    examples = [
        Example(named_scene(name), test / name, drawn / name, text)
        for name, text in list(texts.items())[:EXAMPLES]
        if (drawn / name).exists()
    ]
    full = out / "full"
    legs = [*sorted(full.glob("stage1_leg*")), full / "stage1"]
    hours = sum(seconds_of(run) or 0 for run in out.glob("*/stage*")) / 3600
    write_report(
        out / "report.html",
        "VLV on the embedded world",
        f"A frozen text-to-image model, shown pictures alone, taught the encoder. Trainings so far: {hours:.1f} hours.",
        tables,
        examples,
        [
            read_joined_curve("stage 1, denoising loss", legs, "train/loss"),
            read_joined_curve("stage 1, validation loss", legs, "val/loss"),
            read_curve("stage 2, caption loss", full / "stage2", "train/loss"),
        ],
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
