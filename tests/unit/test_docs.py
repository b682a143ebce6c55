"""README and docs/ are true: what they name exists, what they call parses, what they print is printed.

`UPDATE_DOCS=1 pytest tests/unit/test_docs.py` writes the options page and the import rule's table anew.
"""

import ast
import fnmatch
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from scripts.make_options_page import COMMANDS, PAGE, page
from scripts.measure_vllm import VllmMeasureConfig
from scripts.small_world.make_scenes import ScenesConfig
from scripts.small_world.reproduce import ReproduceConfig
from scripts.try_extras import ExtrasConfig
from tests.unit.test_import_rule import RULES
from vlv.cli.benchmark import SUITES
from vlv.cli.data import TOOLS
from vlv.cli.main import COMMANDS as VLV
from vlv.resources import find_recipe
from vlv.settings import load_config
from vlv.shapes.measure_files import MeasureConfig

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
BASH = re.compile(r"```bash\n(.*?)```", re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LAUNCHERS = {command.launcher: command for command in COMMANDS if command.launcher}
NESTED = {"data": TOOLS, "benchmark": SUITES}
SETTINGS = {command.name: command.config for command in COMMANDS}
# Names before `=` that are no setting of ours: of the shell, of other programs, of saved files, of Python calls.
OTHERS = {"weights_only", "trust_remote_code", "early_stopping", "license", "max_sequence_length", "fetch", "variant"}
SCRIPTS = (MeasureConfig, ScenesConfig, ReproduceConfig, ExtrasConfig, VllmMeasureConfig)  # commands that pages give

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def without_blocks(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(path):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-") for heading in headings}


@every_page
def test_internal_links_resolve(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name}: {link}"
        if anchor and "." not in anchor:  # those with a dot are of the API reference: mkdocs --strict knows them
            assert anchor in anchors(target), f"{path.name}: {link}"


@every_page
def test_named_files_exist(path):
    """Every name that begins with a folder of the repository; `*` and `{a,b}` stand for several."""
    named = re.findall(r"(?<![\w./-])(?:configs|docs|scripts|tests|vlv|assets)/[\w./*{},-]*", path.read_text())
    for name in named:
        name = name.rstrip(".,")
        for pattern in [name] if "{" not in name else expand(name):
            found = (
                (ROOT / pattern).exists() or fnmatch.filter(TRACKED, pattern) or fnmatch.filter(TRACKED, f"{pattern}*")
            )
            assert found, f"{path.name} names {name}"


def expand(name):
    head, _, rest = name.partition("{")
    inside, _, tail = rest.partition("}")
    return [f"{head}{part}{tail}" for part in inside.split(",")]


@every_page
def test_named_modules_exist(path):
    for module in re.findall(r"(?:python -m|:::) ([\w.]+)", path.read_text()):
        if module.split(".")[0] in ("vlv", "scripts"):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), f"{path.name}: {module}"


def test_what_calls_itself_a_command_runs_as_one():
    """Without its last two lines a module is imported, does nothing, and ends with exit code 0."""
    commands = 0
    for path in [*ROOT.glob("scripts/**/*.py"), *ROOT.glob("vlv/**/*.py")]:
        text = path.read_text()
        if named := re.search(r'Call\("python -m ([\w.]+)"', text):
            assert named[1] == ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert re.search(r'^if __name__ == "__main__":\n    main\(', text, re.MULTILINE), path
            commands += 1
    assert commands >= 11


def calls(path):
    """Every call of a launcher that a page shows: (line, environment, launcher, arguments)."""
    text = path.read_text()
    blocks = "\n".join(BASH.findall(text)).replace("\\\n", " ").split("\n")
    for line in [*blocks, *CODE.findall(without_blocks(text))]:
        if not any(f"bash {launcher}" in line for launcher in LAUNCHERS) or "..." in line:
            continue
        words = shlex.split(line, comments=True)
        at = words.index("bash")
        yield line, [word for word in words[:at] if "=" in word], words[at + 1], words[at + 2 :]


@every_page
def test_calls_of_the_launchers_parse(path):
    for line, environment, launcher, arguments in calls(path):
        settings = (ROOT / launcher).read_text()
        for pair in environment:
            name, _, value = pair.partition("=")
            assert re.search(rf"\b{name}\b", settings) or name in ("PYTHON", "MACHINE_RANK"), f"{path.name}: {line}"
            if name == "CONFIG" and value.startswith("configs/"):
                assert (ROOT / value).exists(), f"{path.name}: {line}"
        load_config(LAUNCHERS[launcher].config, None, [word for word in arguments if "=" in word])


def test_the_settings_of_every_command_are_known():
    nested = {f"{name} {tool}" for name, tools in NESTED.items() for tool in tools}
    assert SETTINGS.keys() == VLV.keys() - NESTED.keys() | nested | {"export gguf"}  # beside `vlv export` itself


@every_page
def test_calls_of_the_command_parse(path):
    text = path.read_text()
    blocks = "\n".join(re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").split("\n")
    for line in [*blocks, *CODE.findall(without_blocks(text))]:
        found = re.match(r"(?:\$ )?vlv ([a-z]\w+)(.*)", line)
        if found is None:
            continue
        name, rest = found.groups()
        assert name in VLV, f"{path.name}: {line}"
        words = shlex.split(rest, comments=True)
        if name in NESTED:
            tool = words.pop(0) if words else "TOOL"
            if tool.isupper():
                continue
            assert tool in NESTED[name], f"{path.name}: {line}"
            name = f"{name} {tool}"
        if words and f"{name} {words[0]}" in SETTINGS:
            name = f"{name} {words.pop(0)}"
        known = {item.name for item in fields(SETTINGS[name])}
        for at, word in enumerate(words):
            if word == "--config":
                assert find_recipe(words[at + 1]).is_file() or words[at + 1].isupper(), f"{path.name}: {line}"
            elif word.startswith("-"):
                assert word == "--help", f"{path.name}: {line}"
            elif "=" in word:
                assert word.partition("=")[0] in known, f"{path.name}: {line}"


@every_page
def test_named_options_exist(path):
    known = {item.name for settings in (*SETTINGS.values(), *SCRIPTS) for item in fields(settings)} | OTHERS
    for name in re.findall(r"`(?!key=value)([a-z][a-z0-9_]*)=", without_blocks(path.read_text())):
        assert name in known, f"{path.name} names the option {name}"


def literals():
    """Every text in the code of vlv, what is filled in left out."""
    for file in (ROOT / "vlv").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "\0".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    text, printed = (ROOT / "docs" / "troubleshooting.md").read_text(), "\0".join(literals())
    messages = re.findall(r"^\*\*`(.*?)`", text, re.MULTILINE | re.DOTALL)
    assert len(messages) > 8
    for message in messages:
        for part in re.split(
            r"\.\.\.|[();]|[a-z0-9_]+=|[a-z0-9]+_[a-z0-9_]+|\d[\d.]*%?|: set |: give | or |, or |<|>",
            " ".join(message.split()),
        ):
            if len(part) > 20:
                assert part.strip() in printed, message


def test_options_page_is_up_to_date():
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run python -m scripts.make_options_page"


def rows(text, header):
    """The cells of the Markdown table whose first row is `header`."""
    lines = text[text.index(header) :].split("\n")[2:]
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def import_table():
    """RULES as the table of the architecture page."""
    lines = ["| part | may import of `vlv` | must not import |", "| --- | --- | --- |"]
    for part, (ours, others) in RULES.items():
        listed = [", ".join(f"`{name}`" for name in sorted(names or ())) for names in (ours, others)]
        lines.append(f"| `{part}` | {'everything' if ours is None else listed[0] or 'nothing'} | {listed[1]} |")
    return "\n".join(lines)


def test_architecture_states_the_import_rule():
    path = ROOT / "docs" / "architecture.md"
    if os.environ.get("UPDATE_DOCS"):
        head = re.escape(import_table().split("\n")[0])
        path.write_text(re.sub(rf"{head}\n(\|.*\n)+", f"{import_table()}\n", path.read_text()))
    assert import_table() in path.read_text(), f"docs/architecture.md must have this table:\n{import_table()}"


def test_architecture_names_every_folder():
    table = rows((ROOT / "docs" / "architecture.md").read_text(), "| folder | what is in it |")
    named = {CODE.findall(folder)[0] for folder, _ in table}
    assert {f"vlv/{path.name}" for path in (ROOT / "vlv").iterdir() if (path / "__init__.py").exists()} <= named


def test_architecture_counts_what_an_extension_touches():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = rows(text, "| to add | files | which |")
    assert len(table) >= 5
    for what, count, which in table:
        assert int(count) == len(CODE.findall(which)), what


def test_readme_fits_a_screen_or_three():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_readme_python_prints_what_it_says():
    code, printed = re.search(
        r"```python\n(.*?)```\nprints\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    ).groups()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == printed


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= citation.keys()
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text()
    assert paper["title"] in readme
    assert str(paper["year"]) in readme
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert authors in readme


def test_the_workflow_runs_the_test_command():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[-1]["run"] == "bash scripts/test.sh"
    assert "bash scripts/test.sh" in (ROOT / "README.md").read_text()
    python = next(step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", ""))
    assert python == "3.11"
