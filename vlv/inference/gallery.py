"""One HTML page with originals, reconstructions and captions: no network, no other file but the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlv.atomic import write_whole

# Names of settings as a reader knows them; others are shown as they are called.
_LABELS = {"num_inference_steps": "steps", "guidance_scale": "guidance", "checkpoint_fingerprint": "fingerprint"}
_SHORT = {"checkpoint_fingerprint": 12}  # characters shown; metrics.json and settings.json have all


@dataclass(frozen=True)
class GalleryEntry:
    """One image: its relative name, its pictures (label -> path relative to the page), its caption if any."""

    name: str
    pictures: dict[str, str]
    caption: str | None = None


def write_gallery(
    path: Path,
    title: str,
    settings: Mapping[str, Any],
    entries: Iterable[GalleryEntry],
    metrics: Mapping[str, Any] | None = None,
    num_bad: int = 0,
) -> None:
    """Write the page, whole or not at all.

    Args:
        settings: shown in the header; nested ones are flattened.
        metrics: what metrics.json holds (`vlv.inference.measures`).
        num_bad: images that could not be read, which the header mentions.
    """
    cards = [_card(entry) for entry in entries]
    count = f"{len(cards)} image{'' if len(cards) == 1 else 's'}"
    if num_bad:
        count += f" · {num_bad} unreadable and left out"
    page = _PAGE.format(
        title=escape(title),
        count=escape(count),
        settings="".join(_term(key, value) for key, value in _flatten(settings)),
        measures=_measures(metrics or {}),
        cards="\n".join(cards),
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))


def _card(entry: GalleryEntry) -> str:
    pictures = "".join(
        f'<a href="{_link(path)}"><figure><img loading="lazy" decoding="async" src="{_link(path)}" '
        f'alt="{escape(label)} of {escape(entry.name)}"><figcaption>{escape(label)}</figcaption></figure></a>'
        for label, path in entry.pictures.items()
    )
    caption = "" if entry.caption is None else f'<p dir="auto">{escape(entry.caption)}</p>'
    wide = " wide" if len(entry.pictures) > 3 else ""
    return (
        f'<article class="card{wide}"><div class="row">{pictures}</div><h2>{escape(entry.name)}</h2>{caption}</article>'
    )


def _link(path: str) -> str:
    return quote(path, safe="/", errors="surrogateescape")


def _term(key: str, value: Any) -> str:
    label = _LABELS.get(key, key).replace("_", " ")
    return f"<div><dt>{escape(label)}</dt><dd>{escape(_text(value)[: _SHORT.get(key)])}</dd></div>"


def _flatten(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten({f"{key} {inner}": item for inner, item in value.items()})
        elif value is not None:
            yield key, value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _measures(metrics: Mapping[str, Any]) -> str:
    """A table with a row for each seed, then mean and standard deviation."""
    if "note" in metrics:
        return f'<p class="note">{escape(str(metrics["note"]))}</p>'
    rows = [(f"seed {entry['seed']}", entry) for entry in metrics.get("seeds", [])]
    rows += [(label, metrics[label]) for label in ("mean", "std") if label in metrics]
    if not rows:
        return ""
    first = rows[0][1]
    keys = [key for key in first if isinstance(first[key], float) and _is_measure(key)]
    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in keys)
    body = "".join(
        f"<tr><th>{escape(label)}</th>"
        + "".join(f"<td>{_text(entry[key]) if key in entry else ''}</td>" for key in keys)
        + "</tr>"
        for label, entry in rows
    )
    note = f"{first['n']} images · features: {first['extractor']} · {first['resizer']}"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(note)}</p>"


def _is_measure(key: str) -> bool:
    return key.startswith(("fid", "kid", "fd_", "kd_"))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --page: #f4f4f2; --card: #fff; --ink: #1c1c1a; --soft: #6a6a65; --line: #dededa; --mark: #2f5d8a; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #141413; --card: #1f1f1d; --ink: #ececea; --soft: #9d9d97; --line: #343431; --mark: #8db8e2; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
header, main {{ max-width: 1800px; margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem); }}
header {{ padding-bottom: 0; }}
h1 {{ margin: 0; font-size: 1.6rem; font-weight: 650; letter-spacing: -.01em; }}
header p, table {{ color: var(--soft); margin: .25rem 0 0; }}
dl {{ display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 1rem 0; }}
dt {{ color: var(--soft); font-size: .72rem; text-transform: uppercase; letter-spacing: .05em; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem 1.2rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); font-weight: 400; }}
td {{ color: var(--ink); font-weight: 600; }}
input {{ width: min(24rem, 100%); margin-top: 1.2rem; padding: .5rem .8rem; font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }}
input:focus-visible, a:focus-visible {{ outline: 2px solid var(--mark); outline-offset: 1px; }}
main {{ display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }}
.card {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem;
  content-visibility: auto; contain-intrinsic-size: auto 20rem; }}
.card.wide {{ grid-column: 1 / -1; }}
.row {{ display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); }}
.wide .row {{ grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }}
a {{ color: inherit; text-decoration: none; border-radius: 6px; }}
figure {{ margin: 0; }}
img {{ display: block; width: 100%; aspect-ratio: 1; border-radius: 6px; background: var(--line); }}
figcaption {{ color: var(--soft); font-size: .78rem; margin-top: .2rem; }}
h2 {{ margin: .6rem 0 0; font-size: .88rem; font-weight: 600; overflow-wrap: anywhere; }}
.card p {{ margin: .3rem 0 0; max-height: 15rem; overflow: auto; overflow-wrap: anywhere; }}
[hidden] {{ display: none; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{count}</p>
<dl>{settings}</dl>
{measures}
<input type="search" placeholder="Filter by name or caption" aria-label="Filter by name or caption">
</header>
<main>
{cards}
</main>
<script>
const cards = [...document.querySelectorAll(".card")].map(card => [card, card.textContent.toLowerCase()]);
document.querySelector("input").addEventListener("input", event => {{
  const wanted = event.target.value.trim().toLowerCase();
  for (const [card, text] of cards) card.hidden = !text.includes(wanted);
}});
</script>
</body>
</html>
"""
