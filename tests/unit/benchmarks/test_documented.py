"""The tables of docs/performance.md are those of the kept results, docs/performance/*.json.

`UPDATE_DOCS=1 pytest tests/unit/benchmarks/test_documented.py` writes them anew.
"""

import json
import os
import re
from pathlib import Path

from vlv.benchmarks.speed import read_facts
from vlv.cli.benchmark_speed import table

DOCS = Path(__file__).resolve().parents[3] / "docs"
MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def test_the_tables_are_those_of_the_kept_results():
    page = DOCS / "performance.md"

    def measured(match):
        facts = json.loads((DOCS / "performance" / f"{match[1]}.json").read_text())
        kind = match[1].split("_")[0]
        return f"<!-- {match[1]} -->\n{table(kind, *read_facts(facts))}\n<!-- end -->"

    text = MARKED.sub(measured, page.read_text())
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(text)
    assert page.read_text() == text
    assert {match[1] for match in MARKED.finditer(text)} == {
        path.stem for path in (DOCS / "performance").glob("*.json") if path.stem != "startup"
    }
