"""One HTML page with originals, reconstructions and captions: no network, no other file but the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vlv.evaluation.interface import Legend
from vlv.inference.journal import JsonObject
from vlv.inference.measures import Metrics
from vlv.inference.pages import write_page

# Names of settings as a reader knows them; others are shown as they are called.
_LABELS = {"num_inference_steps": "steps", "guidance_scale": "guidance", "checkpoint_fingerprint": "fingerprint"}
_SHORT = {"checkpoint_fingerprint": 12}  # characters shown; metrics.json and settings.json have all
_WIDE = 3  # a card with more pictures takes a row of its own


@dataclass(frozen=True)
class GalleryEntry:
    """One image: its relative name, its pictures (label -> path relative to the page), its caption if any."""

    name: str
    pictures: dict[str, str]
    caption: str | None = None

    @property
    def wide(self) -> bool:
        """Whether its pictures need the page's width."""
        return len(self.pictures) > _WIDE


@dataclass(frozen=True)
class MeasureTable:
    """The page's table: a column a measure, a row a seed, then mean and standard deviation.

    columns: key in metrics.json -> how it is explained.
    rows: label -> values as text, in the order of the columns.
    """

    columns: Mapping[str, Legend]
    rows: dict[str, list[str]]
    note: str


def write_gallery(
    path: Path,
    title: str,
    settings: JsonObject,
    entries: Iterable[GalleryEntry],
    metrics: Metrics | None = None,
    num_bad: int = 0,
) -> None:
    """Write the page, whole or not at all.

    Args:
        settings: shown in the header; nested ones are flattened.
        metrics: what metrics.json holds (`vlv.inference.measures`).
        num_bad: images that could not be read, which the header mentions.
    """
    terms = [(_label(key), _text(value)[: _SHORT.get(key)]) for key, value in _flatten(settings)]
    values = {
        "title": title,
        "entries": list(entries),
        "num_bad": num_bad,
        "settings": terms,
        "measures": measure_table(metrics or {}),
        "notes": [metrics["note"]] if metrics and "note" in metrics else [],
    }
    write_page(path, "gallery.html", values)


def measure_table(metrics: Metrics) -> MeasureTable | None:
    """Every measure that metrics.json names, with its meaning; None where nothing was measured."""
    columns, seeds = metrics.get("measures", {}), metrics.get("seeds", [])
    if not columns or not seeds:
        return None
    entries = {f"seed {entry['seed']}": entry for entry in seeds}
    entries |= {label: entry for label in ("mean", "std") if (entry := metrics.get(label))}
    rows = {label: [_text(entry.get(key, "")) for key in columns] for label, entry in entries.items()}
    note = f"{seeds[0]['n']} images · features: {seeds[0]['extractor']} · {seeds[0]['resizer']}"
    return MeasureTable(columns, rows, note)


def _label(key: str) -> str:
    return _LABELS.get(key, key).replace("_", " ")


def _flatten(settings: JsonObject) -> Iterable[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten({f"{key} {inner}": item for inner, item in value.items()})
        elif value is not None:
            yield key, value


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value)
