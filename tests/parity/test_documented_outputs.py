"""docs/checkpoints.md shows what the commands print: `vlv import`, `export` and `inspect` are called again here.

`UPDATE_DOCS=1 pytest tests/parity/test_documented_outputs.py` puts what is printed now into the page, where it differs.
"""

import contextlib
import io
import os
import re
import shlex
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.make_tiny_components import main as make_tiny_components
from tests.parity.test_import_refusals import Payload
from tests.unit.test_docs import ROOT
from vlv.cli.main import main

PAGE = ROOT / "docs" / "checkpoints.md"
BLOCK = re.compile(r"```\n(\$ vlv .*?)```", re.DOTALL)
VARIABLES = {  # as the page's first section has them
    "$TINY": "decoder_resolution=64 encoder_resolution=128",
    "$BASES": "stable_diffusion=bases/stable-diffusion florence2=bases/florence2",
}
# Of a run, or while loading in a process of its own: not called again.
SKIPPED = ("outputs/", "ckpt_dir=lacking", "--config reconstruct_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stage1_file, stage2_file, bases, imported_stage2):
    """A folder as the page's commands are called in."""
    here = tmp_path_factory.mktemp("documented")
    (here / "published").mkdir()
    shutil.copytree(bases, here / "bases")
    make_tiny_components([str(here / "tiny")])
    stage1 = {f"module.{name}": weight for name, weight in load_file(stage1_file).items()}
    query, shared = "module.query_embed", "module.model.language_model.model.encoder.embed_tokens.weight"
    last = "module.text_encoder.text_model.final_layer_norm.bias"
    written = {
        "pytorch_model.bin": stage1,
        "extra.bin": stage1 | {"module.extra.weight": torch.zeros(2)},
        "lacking.bin": {name: weight for name, weight in stage1.items() if name != last},
        "untied.bin": stage1 | {shared: stage1[shared] + 1},
        "diverged.bin": stage1 | {query: stage1[query] / 0},
        "hostile.pt": {"query_embed": Payload()},
        "other_model.pt": {"layer.weight": torch.zeros(2)},
        "model.pt": {"model_state_dict": load_file(stage2_file)},
    }
    for name, weights in written.items():
        torch.save(weights, here / "published" / name)
    whole = (here / "published" / "pytorch_model.bin").read_bytes()
    (here / "published" / "cut.bin").write_bytes(whole[: len(whole) // 2])
    step = here / "published" / "zero" / "global_step10"
    step.mkdir(parents=True)
    for name in ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"):
        (step / name).write_bytes(b"x")
    (step.parent / "latest").write_text("global_step10")
    shutil.copytree(here / "bases" / "stable-diffusion", here / "other" / "stable-diffusion")
    for file in (here / "other").rglob("*.safetensors"):
        save_file({name: weight + 0.5 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    for name in ("cut", "lacking"):
        shutil.copytree(imported_stage2, here / name)
    file = here / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    file = here / "lacking" / "model.safetensors"
    lacking = ("mlp.", "encoder.query_embed")
    weights = {name: weight for name, weight in load_file(file).items() if not name.startswith(lacking)}
    save_file(weights, file, metadata={"format": "pt"})
    return here


def printed(command):
    """What a command prints, called in this process."""
    for name, value in VARIABLES.items():
        command = command.replace(name, value)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), contextlib.suppress(SystemExit):
        main(shlex.split(command)[1:])
    return output.getvalue().replace(f"{os.getcwd()}/", "")


def agrees(shown, output):
    """Whether every part of `shown` stands in `output`, in order; a line `...` stands for left-out lines."""
    at = 0
    for part in re.split(r"(?m)^\.\.\.\n", shown):
        at = output.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return "\n...\n" in f"\n{shown}" or shown == output


def test_the_page_shows_what_is_printed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text, different = PAGE.read_text(), []
    for block in sorted(BLOCK.findall(text), key=lambda block: "vlv import" not in block):  # others use what it makes
        for command, shown in re.findall(r"\$ (vlv .*)\n((?:(?!\$ ).*\n)*)", block):
            if any(part in command for part in SKIPPED):
                continue
            output = printed(command)
            if not agrees(shown, output):
                different.append(f"$ {command}\n{output}instead of\n{shown}")
                text = text.replace(f"$ {command}\n{shown}", f"$ {command}\n{output}", 1)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(text)
    assert not different, "\n".join(different)
