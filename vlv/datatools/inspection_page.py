"""An inspection as one HTML page, pictures included, so that it can be moved and mailed alone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from vlv.datatools.distribution import summary
from vlv.datatools.inspection import Inspection
from vlv.datatools.inspection_text import facts, histograms, probe_facts
from vlv.datatools.probe import Shown
from vlv.inference.pages import write_page

_TEMPLATES = Path(__file__).parent / "templates"


def write_inspection(path: Path, found: Inspection, shown: Sequence[Shown]) -> None:
    """Write the page, whole or not at all."""
    charts = [
        {
            "title": title,
            "summary": summary(spread),
            "bars": [
                {
                    "label": item.label,
                    "count": item.count,
                    "share": item.count / spread.count,
                    "width": 100 * item.count / max(other.count for other in spread.bins),
                }
                for item in spread.bins
            ],
        }
        for title, spread in histograms(found)
    ]
    values: dict[str, object] = {
        "title": found.source,
        "facts": list(facts(found)),
        "probe": list(probe_facts(found)),
        "bad": found.bad,
        "notes": found.notes,
        "charts": charts,
        "samples": [
            {
                "name": sample.name,
                "picture": base64.b64encode(sample.picture).decode(),
                "size": f"{sample.size[0]} x {sample.size[1]} px",
                "caption": sample.caption,
            }
            for sample in shown
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, "inspection.html", values, _TEMPLATES)
