import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("*.sh"), *(ROOT / "scripts").rglob("*.sh"), ROOT / ".ci" / "run"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(path):
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(path):
    done = subprocess.run(["shellcheck", "-x", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["train_stage1", "train_stage2", "Caption_inference", "Image_inference"])
def test_launchers_stay_short(name):
    assert len((ROOT / f"{name}.sh").read_text().splitlines()) <= 30


def test_a_python_that_is_not_there_is_one_line(tmp_path):
    """Not another Python in its place."""
    variables = {"PATH": os.environ["PATH"], "PYTHON": "python9", "VENV_DIR": str(tmp_path / "venv")}
    call = ["bash", str(ROOT / "scripts" / "quickstart.sh")]
    done = subprocess.run(call, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: PYTHON=python9 is not there: name a Python of 3.11 or newer")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("broken", ["", "tower", "unet"])
def test_the_family_is_made_two_parts_at_a_time_and_stops_where_one_fails(tmp_path, broken):
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    wanted = b"".join((ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml", "setup.py"))
    (environment / "installed").write_text(hashlib.sha256(wanted).hexdigest())
    python, calls = environment / "bin" / "python", tmp_path / "calls"
    line = f'echo "$3 ${{4#out=}} ${{OMP_NUM_THREADS:-all}}" >> {calls}; [ "$3" != "{broken}" ]'
    python.write_text(f"#!/bin/sh\n{line}\n")
    python.chmod(0o755)
    variables = {"PATH": "/usr/bin:/bin", "VENV_DIR": str(environment), "WORK": str(tmp_path / "work")}
    done = subprocess.run(["bash", str(ROOT / "scripts" / "small_world" / "pretrain.sh")], env=variables, check=False)
    made = [line.split() for line in calls.read_text().splitlines()]
    names = [name for name, _, _ in made]
    assert {out for _, out, _ in made} == {str(tmp_path / "work" / "family")}
    assert bool(done.returncode) == bool(broken)
    if not broken:
        assert names[0] == "tokenizers"
        assert set(names[1:5]) == {"vae", "text_encoder", "tower", "florence2"}
        assert set(names[5:]) == {"unet", "unet_finish", "unet_longer", "qwen", "qwen_refine"}
        assert "all" not in {threads for _, _, threads in made[1:]}
    else:
        assert "unet_finish" not in names
        assert ("florence2" not in names) == (broken == "tower")


def prepare_laion(tmp_path, **settings):
    variables = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "OUTPUT": str(tmp_path / "out")}
    variables |= {"IMG2DATASET_ENV": str(tmp_path / "venv"), **settings}
    call = ["bash", str(ROOT / "scripts" / "prepare_laion.sh")]
    done = subprocess.run(call, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert not (tmp_path / "venv").exists()
    return done.stderr.strip()


def test_laion_needs_metadata_and_a_place(tmp_path):
    assert prepare_laion(tmp_path).startswith("error: METADATA is empty: METADATA=FOLDER")
    (tmp_path / "file").write_text("")
    said = prepare_laion(tmp_path, METADATA=str(tmp_path), OUTPUT=str(tmp_path / "file" / "out"))
    assert said == f"error: OUTPUT={tmp_path}/file/out cannot be written: give a folder on a disk that can be"
    said = prepare_laion(tmp_path, METADATA=str(tmp_path / "absent.parquet"))
    assert said.startswith(f"error: {tmp_path}/absent.parquet does not exist")
    said = prepare_laion(tmp_path, METADATA=str(tmp_path), MIN_SIDE="x")
    assert said == "error: min_side=x cannot be used: give a whole number"


def test_two_calls_of_laion_into_one_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = prepare_laion(tmp_path, METADATA=str(tmp_path))
    assert said == f"error: OUTPUT={tmp_path}/out is in use by another call: wait for it, or give another folder"
