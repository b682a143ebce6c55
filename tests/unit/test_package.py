"""The wheel: what is in it, and that it works installed in an empty environment, outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vlv
from scripts.try_extras import SOURCES
from vlv import resources

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy so that nothing is left in the checkout, and without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = out.glob("*.whl")
    return built


def files_below(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    }


def test_the_wheel_holds_the_package_and_its_data(wheel):
    assert wheel.name == f"vlv-{vlv.__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = {f"vlv/{name}" for name in files_below(ROOT / "vlv")}
    expected |= {f"vlv/configs/{name}" for name in files_below(ROOT / "configs")}
    expected |= {f"vlv/assets/{name}" for name in files_below(ROOT / "assets")}
    assert names == expected
    assert {"vlv/py.typed", "vlv/configs/stage1.yaml", "vlv/assets/tiny/trained/captioner/model.safetensors"} <= names


def test_the_wheel_has_the_command_and_its_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    info = {name.split("/", 1)[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "vlv = vlv.cli.main:main" in info["entry_points.txt"]
    for line in ("License-Expression: Apache-2.0", "Project-URL: Paper, https://arxiv.org/abs/2507.07104"):
        assert line in info["METADATA"]


def test_an_unpacked_wheel_finds_its_own_data(wheel, tmp_path):
    """Without installation: the files of the wheel on the path, called from a folder that is not the repository."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()
    code = "from vlv import resources as r; print(r.recipes_folder(), r.assets_folder(), r.project_folder())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def call(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    site = tmp_path / "site" / "vlv"
    assert call("-c", code).split() == [str(site / "configs"), str(site / "assets"), str(tmp_path / "work")]
    assert call("-m", "vlv", "--version") == f"vlv {vlv.__version__}\n"
    printed = call("-m", "vlv", "stage1", "--config", "stage1_sdxl", "print_config=true")
    assert "stable-diffusion-xl-base-1.0" in printed
    printed = call("-m", "vlv", "stage1", "--config", "stage1_shapes", "print_config=true")
    for line in (
        f"val_dataset_path: {site / 'assets'}  ",
        f"florence2_model_path: {site / 'assets/tiny/florence2'}  ",
        "output_dir: ./outputs/Stage1_Shapes  ",
    ):
        assert line in printed


@pytest.mark.slow
@pytest.mark.network
def test_installed_in_an_empty_environment_it_captions_in_another_folder(wheel, tmp_path):
    """A package index is needed, and minutes: torch and the other dependencies are installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*arguments):
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    call(sys.executable, "-m", "venv", "env")
    torch = next(line.split()[0] for line in (ROOT / "requirements.txt").open() if line.startswith("torch=="))
    call("env/bin/pip", "install", "-q", torch)
    call("env/bin/pip", "install", "-q", str(wheel))
    assert call("env/bin/vlv", "--version") == f"vlv {vlv.__version__}\n"
    captioner = call("env/bin/python", "-c", "from vlv.resources import assets_folder as f; print(f())").strip()
    captioner = f"{captioner}/tiny/trained/captioner"
    assert "stage 2 (VLVCaptioner)" in call("env/bin/vlv", "inspect", captioner)
    images = str(resources.assets_folder())
    sizes = call("env/bin/vlv", "stage1", f"train_dataset_path={images}", "dry_run=true")  # nothing is downloaded
    assert "parameters: 415,849,472 trained" in sizes
    call("env/bin/vlv", "caption", images, f"ckpt_dir={captioner}", "output_path=c.json", "num_beams=1")
    assert (tmp_path / "c.json").read_text().count("\n") > 8
