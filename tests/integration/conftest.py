"""The launchers as a user calls them, on the tiny components and a few photos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Launcher:
    """Runs a launcher of the clone with variables in its environment; returns the finished process."""

    def __init__(self, cwd):
        self.cwd = cwd

    def __call__(self, script, *arguments, timeout=400, **variables):
        environment = {
            key: value for key, value in os.environ.items() if key not in ("CONFIG", "IMAGE_PATH", "OUTPUT_DIR", "lr")
        }
        environment.update({key: str(value) for key, value in variables.items()})
        environment.setdefault("PYTHON", sys.executable)
        return subprocess.run(
            ["bash", str(ROOT / script), *arguments],
            cwd=self.cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    return Launcher(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(scope="session")
def components(tiny_components):
    """The variables that name the components of stage 1."""
    return {
        "stable_diffusion_model_path": tiny_components / "stable-diffusion",
        "florence2_model_path": tiny_components / "florence2",
    }


def train_tiny_stage1(launch, photos, output_dir, *arguments, **settings):
    """Run stage 1 with four pictures a step; returns the run's folder."""
    done = launch(
        "train_stage1.sh",
        "log_every=1",
        *arguments,
        CONFIG=ROOT / "configs/stage1_tiny.yaml",
        train_dataset_path=photos,
        val_dataset_path=photos,
        output_dir=output_dir,
        global_batch_size=4,
        **settings,
    )
    assert done.returncode == 0, done.stderr
    return output_dir


@pytest.fixture(scope="session")
def stage1(launch, components, sample_photos, tmp_path_factory):
    """The run folder of a short stage 1."""
    folder = tmp_path_factory.mktemp("runs") / "stage1"
    previews = ("val_pictures=2", "val_inference_steps=2")
    return train_tiny_stage1(launch, sample_photos, folder, *previews, num_steps=8, save_step=4, **components)


@pytest.fixture(scope="session")
def stage2(launch, stage1, tiny_components, sample_photos, tmp_path_factory):
    """The run folder of a short stage 2 on it."""
    folder = tmp_path_factory.mktemp("runs") / "stage2"
    done = launch(
        "train_stage2.sh",
        "log_every=1",
        "val_pictures=1",
        CONFIG=ROOT / "configs/stage2_tiny.yaml",
        dataset_path=sample_photos,
        val_dataset_path=sample_photos,
        qwen_model=tiny_components / "qwen",
        diffusion_model_path=stage1 / "final",
        output_dir=folder,
        total_steps=4,
        save_step=4,
        batch_size=4,
    )
    assert done.returncode == 0, done.stderr
    return folder


def metrics(folder, key):
    """{step: value} of one metric; the last line of a step counts."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if key in row}


def one_line(done):
    """The terminal's last words of a failed call: one line, no trace."""
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]
