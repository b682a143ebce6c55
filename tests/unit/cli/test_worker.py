"""One process of a run: the settings that it is handed, and what it leaves of a failure."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from vlv.cli import worker
from vlv.cli.launch import LAUNCHED
from vlv.config import Stage1Config
from vlv.resources import recipes_folder
from vlv.settings import load_config


@pytest.mark.parametrize("name", LAUNCHED)
def test_resolved_settings_arrive_as_they_are(tmp_path, name):
    """Floats and odd paths too; nothing is read from the recipe a second time."""
    command = LAUNCHED[name]
    config = load_config(command.kind, command.recipe and recipes_folder() / command.recipe, ["num_workers=3"])
    if isinstance(config, Stage1Config):
        config = dataclasses.replace(config, lr=0.1 + 0.2, output_dir="a b/${x}é", betas=[0.9, 1 / 3])
    worker.write_resolved(config, tmp_path / "config.json")
    assert worker.read_resolved(command.kind, tmp_path / "config.json") == config


def fail():
    raise ValueError("nothing to read")


def test_the_first_failure_leaves_its_line_and_trace(tmp_path, monkeypatch):
    path = tmp_path / "error.txt"
    monkeypatch.setenv(worker.ERROR_FILE_VARIABLE, str(path))
    assert worker.attempt(fail) == 1
    line, _, trace = path.read_text().partition("\n")
    assert line == "nothing to read"
    assert "in fail" in trace

    def fail_later():
        raise RuntimeError("the other process is gone")

    assert worker.attempt(fail_later) == 1
    assert path.read_text().startswith("nothing to read")


def test_an_interruption_and_a_success(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    assert worker.attempt(interrupted) == 130
    assert worker.attempt(lambda: None) == 0


def test_a_failed_worker_exits_with_1(tmp_path):
    """Without a launcher that reads the file, the line goes to the terminal."""
    config = Stage1Config(stable_diffusion_model_path=str(tmp_path), dry_run=True)
    worker.write_resolved(config, tmp_path / "config.json")
    call = [sys.executable, "-m", "vlv.cli.worker", "stage1", str(tmp_path / "config.json")]
    done = subprocess.run(call, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
