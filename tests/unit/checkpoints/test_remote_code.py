"""Code that a component names is neither run nor named by what is made of it."""

import json
import shutil

import pytest
import torch

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.checkpoints.identity import AUTO_NAME

MODULE = "evil.Evil"
NAMES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")


@pytest.fixture
def hostile(tiny_components, tmp_path):
    """The tiny components, each of whose JSON files names code that lies beside it and says so when it is run."""
    folder = tmp_path / "hostile"
    shutil.copytree(tiny_components, folder)
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and path.name.endswith("config.json"):
            content["auto_map"] = dict.fromkeys(NAMES, MODULE)
            path.write_text(json.dumps(content))
    for part in {path.parent for path in folder.rglob("*config.json")}:
        (part / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    return folder


def test_code_of_a_component_is_not_run_and_not_passed_on(hostile, tmp_path):
    torch.manual_seed(0)
    new_stage1(hostile).save_pretrained(tmp_path / "stage1")
    new_captioner(tmp_path / "stage1", hostile / "qwen").save_pretrained(tmp_path / "captioner")
    VLVCaptioner.from_pretrained(tmp_path / "captioner").save_pretrained(tmp_path / "again")
    VLVAutoEncoder.from_pretrained(tmp_path / "stage1").save_pretrained(tmp_path / "stage1_again")
    assert not (tmp_path / "ran").exists()
    captioners = {tmp_path / name / "config.json" for name in ("captioner", "again")}  # which name this package
    for name in ("stage1", "captioner", "again", "stage1_again"):
        for path in (tmp_path / name).rglob("*"):
            assert path.suffix != ".py" or path.name == AUTO_NAME
            assert path.is_dir() or path.read_bytes().count(b"auto_map") == (path in captioners), path
            assert path.is_dir() or b"evil" not in path.read_bytes(), path
