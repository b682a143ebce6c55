"""Check the figures of README.md and docs/ against the results that are kept in docs/embedded_world.

`docs/figures.yaml` lists, for each page, texts with the kept results in braces:

    README.md:
      - "caption F1 {results.full.caption_f1:.3f} on {quickstart.held_out_pictures} held-out pictures"
      - "a text without braces: its figures come from no kept result"

Each text must stand in its page once the braces are filled in; line breaks and runs of blanks count as one blank. So
the check fails when the page changes, and when the result does. It also fails where a page of the list has a figure
like 0.123 that no text of the list covers. What the braces take:

    results.ROW.KEY, quickstart.KEY   docs/embedded_world/results.json and quickstart.json; a list's item by its number,
                                      as quickstart.intervals.caption_f1.0
    in_one_go.ROW.KEY                 in_one_go.json, of a later run of the whole
    lora.arms.ARM.KEY                 lora.json, of LoRA beside full fine-tuning
    logs.RUN.METRIC                   the last value in RUN.metrics.jsonl or RUN.log
    logs.RUN.METRIC@STEP              the value at a step
    file.NAME                         the whole text of a kept file, as file.table.md

with Python's format after a colon, or `:duration` for seconds (7 min 38 s).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml

from vlv.shapes.runs import duration

ROOT = Path(__file__).resolve().parents[1]
LIST = Path("docs/figures.yaml")
KEPT = Path("docs/embedded_world")
_BRACES = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
# Kept shares and losses are written with three digits after the point; versions and learning rates look different.
_FIGURE = re.compile(r"(?<![\w.,-])[01]\.\d{3}(?!\d|\.\d|e[+-])")


# "F1 0.99" does not stand in "F1 0.995".
_ENDS = r"(?<![\w.]){}(?!\w|[.,]\d)"


class FigureError(ValueError):
    """A text of the list whose braces name nothing that is kept."""


def main() -> None:
    """Print what does not agree; exit code 1 where anything does not."""
    problems = list(check(ROOT))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)
    print(f"{LIST}: every figure agrees with its kept result")


def check(root: Path) -> Iterator[str]:
    """What does not agree, a sentence each.

    Args:
        root: the project's folder, with docs/figures.yaml.
    """
    pages: Mapping[str, list[str]] = yaml.safe_load((root / LIST).read_text(encoding="utf-8"))
    for name, texts in pages.items():
        if not (root / name).is_file():
            yield f"{name} of {LIST} is not there"
            continue
        page = _one_line((root / name).read_text(encoding="utf-8"))
        covered: list[tuple[int, int]] = []
        for text in texts:
            try:
                wanted = _one_line(fill(root, text))
            except FigureError as error:
                yield f"{name}: {error}"
                continue
            places = [(found.start(), found.end()) for found in re.finditer(_ENDS.format(re.escape(wanted)), page)]
            covered += places
            if not places:
                yield _difference(root, name, text, wanted)
        for figure in _FIGURE.finditer(page):
            if not any(start <= figure.start() and figure.end() <= end for start, end in covered):
                around = page[max(0, figure.start() - 40) : figure.end() + 20]
                yield f"{name}: {figure[0]} in '...{around}...' is in no text of {LIST}: add it with its kept result"


def fill(root: Path, text: str) -> str:
    """A text of the list with the kept results in place of its braces.

    Raises:
        FigureError: braces that name nothing that is kept, or a format that does not fit the value.
    """

    return _BRACES.sub(lambda braces: _value(root, braces), text)


def _value(root: Path, braces: re.Match[str]) -> str:
    found, wanted = lookup(root, braces[1]), braces[2] or ""
    try:
        return duration(float(found)) if wanted == "duration" else format(found, wanted)
    except ValueError:
        raise FigureError(f"{braces[0]}: {found!r} cannot be written as {wanted!r}") from None


def lookup(root: Path, key: str) -> float | str:
    """The kept result that `key` names; the module's text says how.

    Raises:
        FigureError: there is none.
    """
    source, _, rest = key.partition(".")
    if source == "file" and (path := root / KEPT / rest).is_file():
        return path.read_text(encoding="utf-8").strip()
    if source == "logs":
        run, _, metric = rest.partition(".")
        metric, _, step = metric.partition("@")
        points = _read_log(root / KEPT, run).get(metric, {})
        wanted = int(step) if step else max(points, default=0)
        if wanted in points:
            return points[wanted]
    if source in ("results", "in_one_go", "quickstart", "lora"):
        value = _find(_read_json(root / KEPT / f"{source}.json"), rest)
        if isinstance(value, (int, float, str)):
            return value
    raise FigureError(f"{{{key}}} names nothing that is kept in {KEPT}")


def _find(node: object, path: str) -> object:
    """The value at a path of keys; a key may hold points itself, and an item of a list is named by its number."""
    if isinstance(node, dict) and path in node:
        return node[path]
    key, points, rest = path.partition(".")
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        node = {key: node[int(key)]}
    if isinstance(node, dict) and key in node:
        return _find(node[key], rest) if points else node[key]
    return None


@cache
def _read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def _read_log(folder: Path, run: str) -> dict[str, dict[int, float]]:
    """Values of each metric by step, from metrics.jsonl where it was kept, else from what the run printed."""
    found: dict[str, dict[int, float]] = {}
    if (path := folder / f"{run}.metrics.jsonl").is_file():
        for line in map(json.loads, path.read_text().splitlines()):
            for metric, value in line.items():
                found.setdefault(metric, {})[line["step"]] = value
    elif (path := folder / f"{run}.log").is_file():
        for step, values in re.findall(r"^step (\d+)/\d+  (.*)$", path.read_text(), re.MULTILINE):
            for metric, value in re.findall(r"(\S+) (-?[\d.]+(?:e[+-]\d+)?)(?=  |$)", values):
                found.setdefault(metric, {})[int(step)] = float(value)
    return found


def _difference(root: Path, name: str, text: str, wanted: str) -> str:
    """One sentence on a text that is not in its page: with what stands there instead, where that can be found."""
    text, pattern, end = _one_line(text), "", 0
    for braces in _BRACES.finditer(text):  # in their place, as many words as the kept result has
        words = len(_value(root, braces).split())
        pattern += re.escape(text[end : braces.start()]) + r"\S+?" + r" \S+?" * (words - 1)
        end = braces.end()
    found = re.search(rf"{pattern}{re.escape(text[end:])}(?!\w|[.,]\d)", _one_line((root / name).read_text("utf-8")))
    instead = f"has '{found[0]}'" if found and end else f"has no text like {text!r}"
    return f"{name} {instead}, and the kept results give '{wanted}'"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
