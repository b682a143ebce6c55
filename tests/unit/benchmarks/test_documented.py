"""The tables of pages of docs/ are those of the kept results, docs/performance/*.json.

`UPDATE_DOCS=1 pytest tests/unit/benchmarks/test_documented.py` writes them anew.
"""

import json
import os
import re
from pathlib import Path

from scripts import measure_attention, measure_f1_time, measure_formats, measure_ray, measure_serving, measure_vllm
from vlv.benchmarks.loading import Run
from vlv.benchmarks.speed import read_facts
from vlv.cli import benchmark_data, benchmark_growth, benchmark_speed, benchmark_startup

DOCS = Path(__file__).resolve().parents[3] / "docs"
MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def table(name, facts):
    """The table of a kept file, whose name begins with its suite."""
    kind = name.split("_")[0]
    if kind == "data":
        runs = {way: [Run(**run) for run in runs] for way, runs in facts["runs"].items()}
        return benchmark_data.table(runs)
    if kind == "attention":
        return measure_attention.table(facts["rows"])
    if kind == "serving":
        return measure_serving.table(facts["rows"])
    if kind == "vllm":
        return measure_vllm.table(facts["rows"])
    if kind == "ray":
        return measure_ray.table([measure_ray.Row(**row) for row in facts["rows"]])
    if kind == "f1":
        return measure_f1_time.table(facts["rows"])
    if kind == "formats":
        return measure_formats.table(facts)
    if kind == "startup":
        return benchmark_startup.table(facts["seconds"])
    if kind == "growth":
        return benchmark_growth.table({int(count): costs for count, costs in facts["costs"].items()})
    return benchmark_speed.table(kind, *read_facts(facts))


def test_the_tables_are_those_of_the_kept_results():
    def measured(match):
        facts = json.loads((DOCS / "performance" / f"{match[1]}.json").read_text())
        return f"<!-- {match[1]} -->\n{table(match[1], facts)}\n<!-- end -->"

    shown = set()
    for page in [DOCS / f"{name}.md" for name in ("performance", "data", "serve", "caption", "small_machines")]:
        text = MARKED.sub(measured, page.read_text())
        if os.environ.get("UPDATE_DOCS"):
            page.write_text(text)
        assert page.read_text() == text
        shown |= {match[1] for match in MARKED.finditer(text)}
    assert shown == {path.stem for path in (DOCS / "performance").glob("*.json")}
