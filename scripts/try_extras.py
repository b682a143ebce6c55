"""Install each extra of pyproject.toml alone into an empty environment, use it there, and print a Markdown table.

python -m scripts.try_extras
python -m scripts.try_extras ray serve constraints=configs/tested_versions.txt json=extras.json

The uses are in scripts/extra_uses.py; "core" is the package without an extra. The exit code is 1 where one fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from scripts.versions import installed
from vlv.cli.entry import FAILED_RUN, Call, parse, stop
from vlv.settings import option, require

ROOT = Path(__file__).resolve().parents[1]
CORE = "core"
SOURCES = ("vlv", "configs", "assets", "setup.py", "pyproject.toml", "README.md", "LICENSE")  # of the wheel
Row = dict[str, Any]


@dataclass(frozen=True)
class ExtrasConfig:
    """Which extras, and with which versions."""

    extras: list[str] = option([], "names of extras, or core; all when empty")
    constraints: str | None = option(None, "file of versions for pip; the newest ones without it", path="local")
    python: str = option(sys.executable, "the interpreter of the environments")
    installer: Literal["pip", "uv"] = option("pip", "uv shares files between environments: seconds each, not minutes")
    json: str | None = option(None, "file for the rows; those of other extras stay in it", path="local")

    def __post_init__(self) -> None:
        for name in self.extras:
            require(name in all_extras(), "extras", name, f"give some of {', '.join(all_extras())}")


def main(arguments: list[str] | None = None) -> None:
    """Try each extra and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(ExtrasConfig, Call("python -m scripts.try_extras", __doc__ or "", ("extras",)), given)
    kept = Path(config.json) if config.json else None
    rows: dict[str, Row] = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(Path(folder), config.python)
        for name in config.extras or all_extras():
            rows[name] = _try(name, wheel, config)
            if name != CORE and CORE in rows:  # what the core brings is in its own row
                rows[name]["versions"] = dict(rows[name]["versions"].items() - rows[CORE]["versions"].items())
            rows = {name: rows[name] for name in all_extras() if name in rows}
            if kept:
                kept.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    failed = [name for name in config.extras or all_extras() if not rows[name]["works"]]
    if failed:
        stop(f"these do not work alone: {', '.join(failed)}", FAILED_RUN)


def all_extras() -> list[str]:
    """The extras of pyproject.toml in alphabetical order, after the package without any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [CORE, *sorted(project["optional-dependencies"])]


def table(rows: dict[str, Row]) -> str:
    """What was tried, as Markdown."""
    lines = ["| extra | installed, MB | installing, s | use, s | what came of it |", "| --- | --- | --- | --- | --- |"]
    for name, row in rows.items():
        state = "" if row["works"] else "fails: "
        numbers = f"{row['megabytes']:,} | {row['install_seconds']} | {row['use_seconds']}"
        lines.append(f"| `{name}` | {numbers} | {state}{row['said']} |")
    return "\n".join(lines)


def _wheel(folder: Path, python: str) -> Path:
    """The package as users get it, built from a copy, as building leaves folders behind."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)], check=True)
    return next(folder.glob("*.whl"))


def _try(name: str, wheel: Path, config: ExtrasConfig) -> Row:
    """Install one extra into an environment that lasts as long as its use."""
    print(f"{name}: installing", file=sys.stderr)
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        environment, work = Path(folder) / "env", Path(folder) / "work"
        work.mkdir()
        subprocess.run([config.python, "-m", "venv", str(environment)], check=True)
        python = str(environment / "bin" / "python")
        wanted = f"vlv[{name}] @ {wheel.as_uri()}" if name != CORE else str(wheel)
        started = time.monotonic()
        own = [python, "-m", "pip", "install"]
        install = own if config.installer == "pip" else ["uv", "pip", "install", "-p", python]
        constraints = ["-c", str(Path(config.constraints).resolve())] if config.constraints else []
        done = _call([*install, "-q", *constraints, wanted], work, variables)
        install_seconds = round(time.monotonic() - started)
        started = time.monotonic()
        if done.returncode == 0:
            print(f"{name}: in use", file=sys.stderr)
            done = _call([python, str(ROOT / "scripts" / "extra_uses.py"), name], work, variables)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
        said = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["nothing was said"]
        packages = next(environment.glob("lib/python*/site-packages"))
        return {
            "works": done.returncode == 0,
            "said": said[-1].replace("|", "/"),
            "megabytes": sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) // 1_000_000,
            "install_seconds": install_seconds,
            "use_seconds": round(time.monotonic() - started),
            "python": packages.parent.name,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": installed(packages),
        }


def _call(call: list[str], work: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(call, cwd=work, env=variables, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
