"""The table of docs/reliability.md is that of the kept results, docs/reliability/*.json.

`UPDATE_DOCS=1 pytest tests/unit/chaos/test_documented.py` writes it anew.
"""

import json
import os
from pathlib import Path

DOCS = Path(__file__).resolve().parents[3] / "docs"
CALLS = {
    "stage1": "stage1 kills=100 steps=40",
    "stage1_two_processes": "stage1 kills=100 steps=40 processes=2",
    "stage2": "stage2 kills=100 steps=40",
    "caption": "caption kills=100",
    "reconstruct": "reconstruct kills=40 images=64",
}
MARKS = ("<!-- chaos -->", "<!-- end of chaos -->")
HEAD = """\
| `vlv chaos ...` | kills, in runs | they hit | half written | steps again | lost | twice | compared | different |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table():
    lines = HEAD
    for name, call in CALLS.items():
        path = DOCS / "reliability" / f"{name}.json"
        if not path.is_file():
            continue
        facts = json.loads(path.read_text())
        hit = ", ".join(f"{place} {count}" for place, count in sorted(facts["hit"].items(), key=lambda item: -item[1]))
        compared = ", ".join(f"{count:,} {kind}" for kind, count in facts["compared"].items())
        different = sum(map(len, facts["different"].values()))
        cells = [f"`{call}`", f"{facts['kills']} in {facts['runs']}", hit, facts["half_written"]]
        cells += [
            facts["steps_again"] if "stage" in name else "",
            facts["lost"],
            facts["repeated"],
            compared,
            different,
        ]
        lines += f"| {' | '.join(map(str, cells))} |\n"
    return lines


def test_the_table_is_that_of_the_kept_results():
    page = DOCS / "reliability.md"
    before, rest = page.read_text().split(MARKS[0])
    shown, after = rest.split(MARKS[1])
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(f"{before}{MARKS[0]}\n{table()}{MARKS[1]}{after}")
        shown = f"\n{table()}"
    assert shown == f"\n{table()}"


def test_every_kept_result_has_a_row():
    kept = {path.stem for path in (DOCS / "reliability").glob("*.json")}
    assert kept <= CALLS.keys()
    assert {"stage1"} <= kept
