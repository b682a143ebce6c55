import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("*.sh"), *(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"])


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
    assert len((ROOT / f"{name}.sh").read_text().splitlines()) <= 45


@pytest.mark.parametrize(("config", "given"), [("stage2", True), ("stage2_qwen0.5b", False), ("stage2_paper", False)])
def test_another_recipe_brings_its_own_language_model(config, given):
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "echo", "CONFIG": str(ROOT / "configs" / f"{config}.yaml")}
    call = ["bash", str(ROOT / "train_stage2.sh")]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert ("qwen_model=" in done.stdout) == given
    named = subprocess.run(call, env={**environment, "qwen_model": "a/b"}, capture_output=True, text=True, check=True)
    assert "qwen_model=a/b" in named.stdout


@pytest.mark.parametrize(("config", "given"), [("stage1", True), ("stage1_sdxl", False)])
def test_another_recipe_brings_its_own_decoder(config, given):
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "echo", "CONFIG": str(ROOT / "configs" / f"{config}.yaml")}
    call = ["bash", str(ROOT / "train_stage1.sh")]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert ("stable_diffusion_model_path=" in done.stdout) == given
