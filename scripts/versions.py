"""Versions of the packages: the lowest that pyproject.toml states, and files of those that the tests passed with.

    python -m scripts.versions lowest [NAME==VERSION ...]

prints constraints for pip: every package of pyproject.toml at its lower bound, what those bring along as it is kept in
configs/lowest_versions.txt, and over both what is named. `bounds` in place of `lowest` leaves out what they bring
along: that suits most extras together, but not the extra `demo`.

    python -m scripts.versions keep lowest|newest

writes configs/lowest_versions.txt or configs/tested_versions.txt: what is installed in the environment that it runs in,
whose tests have passed, and what `scripts.try_extras` put beside that (docs/install/lowest.json, newest.json). It needs
no package but packaging, as it runs before anything else is installed.
"""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
KEPT = {"lowest": ROOT / "configs" / "lowest_versions.txt", "newest": ROOT / "configs" / "tested_versions.txt"}
_HEADS = {
    "lowest": """\
# The lower bounds of pyproject.toml and what they bring along, on Python 3.11.
# `bash scripts/test_versions.sh lowest` installs these; docs/install.md says what was tested with them.
""",
    "newest": """\
# The newest versions that all tests have passed with, on Python 3.11: pip install -c configs/tested_versions.txt .
# `vlv doctor` compares what is installed with them.
""",
}
_WRITTEN = "# Written by python -m scripts.versions keep {}\n"
_OWN = {"vlv", "pip", "wheel"}  # in every environment, and no part of what was tested
_OF_TORCH = ("nvidia-", "cuda-", "triton", "torchvision")  # pip finds those of its torch, whichever that is


def main(arguments: list[str]) -> None:
    """Run one of the calls of the module's text."""
    match arguments:
        case ["lowest" | "bounds" as which, *named]:
            exact = (text.partition("==") for text in named)
            brought = read(KEPT["lowest"]) if which == "lowest" else {}
            wanted = brought | lower_bounds() | {name: number for name, _, number in exact}
            print("\n".join(f"{name}=={number}" for name, number in sorted(wanted.items())))
        case ["keep", ("lowest" | "newest") as which]:
            rows = json.loads((ROOT / "docs" / "install" / f"{which}.json").read_text()).values()
            found = {name: number for row in rows for name, number in row["versions"].items()} | installed()
            kept = sorted((name, number) for name, number in found.items() if not name.startswith(_OF_TORCH))
            lines = (f"{name}=={number}\n" for name, number in kept)
            KEPT[which].write_text(_HEADS[which] + _WRITTEN.format(which) + "".join(lines))
        case _:
            print(__doc__, file=sys.stderr)
            raise SystemExit(2)


def lower_bounds() -> dict[str, str]:
    """The lower bound of each package of pyproject.toml that has one, extras included, by canonical name.

    Raises:
        ValueError: a package has two different ones.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    bounds: dict[str, str] = {}
    for texts in (project["build-system"]["requires"], project["project"]["dependencies"], *extras):
        for requirement in map(Requirement, texts):
            name = canonicalize_name(requirement.name)
            for part in requirement.specifier:
                if part.operator in (">=", "==", "~=") and bounds.setdefault(name, part.version) != part.version:
                    raise ValueError(f"{name} has the bounds {bounds[name]} and {part.version}: give it one")
    return bounds


def read(path: Path) -> dict[str, str]:
    """The versions in a file of `keep`, by canonical name; none where it is not there."""
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.partition("==") for line in lines if not line.startswith("#"))
    return {name: number for name, _, number in pairs}


def installed(packages: Path | None = None) -> dict[str, str]:
    """The versions in a folder of packages, or in this environment, by canonical name."""
    found: dict[str, str] = {}
    for package in distributions(path=sys.path if packages is None else [str(packages)]):
        number = Version(package.version).public  # a build such as 2.13.0+cpu is on no index
        found.setdefault(canonicalize_name(package.metadata["Name"]), number)
    return {name: number for name, number in found.items() if name not in _OWN}


if __name__ == "__main__":
    main(sys.argv[1:])
