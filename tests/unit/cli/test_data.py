"""`vlv data`: its table of tools and their help, which loads nothing heavy."""

import subprocess
import sys
from importlib import import_module

import pytest

from tests.unit.cli.test_main import ended
from tests.unit.test_import_speed import ROOT, help_of, run
from vlv.cli import data


def test_help_lists_the_tools(capsys):
    code, out, _ = ended(capsys, "data", "--help")
    assert code == 0
    assert all(f"  {name} " in out for name in data.TOOLS)
    assert ended(capsys, "data")[:2] == (2, out)


def test_an_unknown_tool_names_the_near_one_or_all(capsys):
    code, _, err = ended(capsys, "data", "shard")
    assert code == 2
    assert "did you mean shards?" in err
    assert "give one of caption, inspect, latents, shards" in ended(capsys, "data", "xyz")[2]


@pytest.mark.parametrize("tool", data.TOOLS)
def test_help_of_the_tools_is_light(tool):
    assert callable(import_module(data.TOOLS[tool].module).main)
    text = run(help_of("vlv", "data", tool))[1]
    assert f"usage: vlv data {tool} [{'DATASET_PATH' if tool == 'latents' else 'SOURCE'}]" in text
    assert "num_workers=4" in text


def test_packing_needs_no_torch(tmp_path):
    call = ["data", "shards", "assets", str(tmp_path / "out"), "num_workers=0", "short_side=256"]
    code = f"import sys; from vlv.cli.main import main; main({call!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8 samples" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
