"""The stated versions agree with each other, and the files of tested ones with them; each extra can be tried."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts import extra_uses, try_extras, versions

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "install.md"
MARKED = re.compile(r"<!-- (newest|lowest) -->\n(.*?)<!-- end -->", re.DOTALL)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in place of the repository, with a pyproject.toml of these requirements."""

    def write(*requirements, extra=()):
        core, more = json.dumps(requirements), json.dumps(extra)
        tables = ('[build-system]\nrequires = ["s>=1"]', f"[project]\ndependencies = {core}")
        text = "\n".join((*tables, f"[project.optional-dependencies]\nmore = {more}\n"))
        (tmp_path / "pyproject.toml").write_text(text)

    monkeypatch.setattr(versions, "ROOT", tmp_path)
    monkeypatch.setattr(versions, "KEPT", {"lowest": tmp_path / "lowest.txt"})
    return write


def test_the_lowest_versions_are_the_bounds_over_what_is_kept(project, tmp_path, capsys):
    project("Some_Pkg>=2", "other[with]>=1.5,<3", extra=("third>=4",))
    (tmp_path / "lowest.txt").write_text("# a word\nsome-pkg==1\nbrought-along==7\nthird==4\n")
    versions.main(["lowest", "third==5"])
    expected = ["brought-along==7", "other==1.5", "s==1", "some-pkg==2", "third==5"]
    assert capsys.readouterr().out.splitlines() == expected
    versions.main(["bounds"])
    assert capsys.readouterr().out.splitlines() == ["other==1.5", "s==1", "some-pkg==2", "third==4"]


def test_what_is_kept_suits_torch_for_a_cpu_too(project, tmp_path, monkeypatch):
    project("some-pkg>=1")
    (tmp_path / "docs" / "install").mkdir(parents=True)
    (tmp_path / "docs" / "install" / "lowest.json").write_text(json.dumps({"x": {"versions": {"of-extra": "3"}}}))
    of_gpu = {"nvidia-cublas": "13", "cuda-bindings": "13", "triton": "3"}
    monkeypatch.setattr(versions, "installed", lambda: {"some-pkg": "1", **of_gpu})
    versions.main(["keep", "lowest"])
    assert versions.read(tmp_path / "lowest.txt") == {"some-pkg": "1", "of-extra": "3"}


def test_one_package_with_two_bounds_is_refused(project):
    project("a>=1", extra=("A>=2",))
    with pytest.raises(ValueError, match="a has the bounds 1 and 2: give it one"):
        versions.lower_bounds()


def test_another_call_is_told_what_there_is(capsys):
    with pytest.raises(SystemExit):
        versions.main(["latest"])
    assert "scripts.versions lowest" in capsys.readouterr().err


def test_a_machines_own_torch_is_used_from_the_lowest_on():
    script = (ROOT / "scripts" / "environment.sh").read_text()
    used = re.search(r"torch.__version__.split.*>= \((\d+), (\d+)\)", script)
    assert ".".join(used.groups()) == str(versions.lower_bounds()["torch"])


@pytest.mark.parametrize(("torch", "installed"), [("2.13.0+cu130", False), ("2.9.1", True)])
def test_an_environment_that_is_there_stays(tmp_path, torch, installed):
    """The README has people make `.venv` by hand, and put extras into it."""
    place = tmp_path / "env"
    (place / "bin").mkdir(parents=True)
    (place / "mine").write_text("an extra")
    (place / "torch.py").write_text(f"__version__ = {torch!r}")
    for name, line in {
        "python": f'PYTHONPATH={place} exec {sys.executable} "$@"',
        "pip": f'echo "$@" >> {place}/calls; for one in "$@"; do [[ ! -f $one ]] || cat "$one"; done >> {place}/calls',
    }.items():
        (place / "bin" / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (place / "bin" / name).chmod(0o755)
    call = ["bash", "-ec", "source scripts/environment.sh; ensure_environment ''; ensure_environment '[dev]'"]
    subprocess.run(call, cwd=ROOT, env={**os.environ, "VENV_DIR": str(place)}, check=True, capture_output=True)
    calls = (place / "calls").read_text()
    assert (place / "mine").read_text() == "an extra"
    assert ("torch==" in calls) == installed
    assert calls.count("--no-deps -e .") == 1
    assert calls.rstrip().endswith("install -q -e .[dev]")


def test_requirements_state_the_bounds_of_pyproject():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not line.startswith(("#", "torch==")):
            requirement = Requirement(line.partition("#")[0])
            assert str(requirement.specifier) == f">={versions.lower_bounds()[canonicalize_name(requirement.name)]}"


@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_the_kept_versions_are_within_the_stated_ones(which):
    """Of the core all are there; of extras those that were tried."""
    kept, bounds = versions.read(versions.KEPT[which]), versions.lower_bounds()
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {canonicalize_name(Requirement(text).name) for text in core} <= kept.keys()
    for name in kept.keys() & bounds.keys():
        assert Version(kept[name]) >= Version(bounds[name])
        if which == "lowest":
            assert Version(kept[name]) == Version(bounds[name]), f"{name}: bash scripts/test_versions.sh lowest"


def test_every_extra_has_a_use_or_its_packages_are_imported(monkeypatch):
    monkeypatch.setattr(extra_uses, "requires", lambda name: ['pyyaml>=6; extra == "a"', "pillow; extra == 'b'"])
    assert extra_uses.use_imports("a") == "imported: yaml"
    assert extra_uses.use_imports("b") == "imported: PIL"
    assert "use-imports" not in extra_uses.USES
    assert set(extra_uses.USES) <= set(try_extras.all_extras()), "a use of an extra that is gone"


def test_the_page_has_what_was_tried():
    def tried(match):
        rows = json.loads((ROOT / "docs" / "install" / f"{match[1]}.json").read_text())
        assert set(rows) <= set(try_extras.all_extras())
        assert all(row["works"] for row in rows.values())
        return f"<!-- {match[1]} -->\n{try_extras.table(rows)}\n<!-- end -->"

    text = MARKED.sub(tried, PAGE.read_text())
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text
