"""`import vlv` and every `--help` are quick: no torch, no transformers, no network, no weights."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import vlv
from vlv.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "parse(" in path.read_text())
HEAVY = ("torch", "transformers", "diffusers", "accelerate", "wandb", "datasets")
# Any socket that is opened ends the process; heavy modules are looked for when it ends.
GUARD = f"""
import atexit, os, socket, sys
class Refused(socket.socket):
    def __init__(self, *_, **__):
        os.write(2, b"a socket was opened"); os._exit(3)
socket.socket = Refused
def look():
    found = [name for name in {HEAVY!r} if name in sys.modules]
    if found:
        os.write(2, f"loaded {{found}}".encode()); os._exit(4)
atexit.register(look)
"""


def run(code):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", GUARD + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started, done.stdout


def best_of_three(code):
    return min(run(code)[0] for _ in range(3))


def help_of(module, *arguments):
    call = [module, *arguments, "--help"]
    return f"import runpy\nsys.argv = {call!r}\nrunpy.run_module({module!r}, run_name='__main__', alter_sys=True)"


def test_import_is_light():
    assert best_of_three("import vlv; assert vlv.__version__") < 0.5


def test_the_checks_of_a_call_are_light_to_import():
    assert best_of_three("import vlv.cli.checks, vlv.checkpoints.identity, vlv.config, vlv.evaluation.extractors") < 0.5


def test_what_starts_one_process_loads_nothing_that_the_process_loads(tmp_path):
    """A whole call up to where its process starts."""
    (tmp_path / "photo.png").write_bytes(b"")
    captioner = ROOT / "assets" / "tiny" / "trained" / "captioner"
    call = ["caption", str(tmp_path), f"ckpt_dir={captioner}", f"output_path={tmp_path / 'captions.json'}"]
    code = "from vlv.cli import launch\nlaunch._run_one = lambda call: print(call[0]) or 0\n"
    assert "caption" in run(f"{code}launch.main({call!r})")[1]


def test_names_are_loaded_on_use():
    with pytest.raises(AttributeError):
        vlv.absent


def test_the_classes_are_listed_before_they_are_loaded():
    assert {"VLVAutoEncoder", "VLVCaptioner", "VLVEncoder", "__version__"} <= set(dir(vlv))
    run("import vlv; assert 'VLVCaptioner' in dir(vlv)")  # and listing them loads nothing


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_is_quick(name):
    code = help_of(f"scripts.{name}")
    assert "usage" in run(code)[1].lower()
    assert best_of_three(code) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_commands(command):
    seconds, text = run(help_of("vlv", command))
    assert f"usage: vlv {command}" in text
    assert seconds < 1
