"""The embedded world's two commands, through the launchers: a few steps of each by default, whole ones marked slow."""

import json
from functools import partial

import pytest
import torch
from transformers import AutoModel

from scripts import quickstart, reproduce_tiny, tiny_keep, tiny_runs
from scripts.measure_shapes import measure
from tests.integration.conftest import ROOT
from vlv import VLVCaptioner
from vlv.identity import CheckpointError
from vlv.shapes.writing import write_scenes

TRAINED = ROOT / "assets" / "tiny" / "trained"
FEW = {"num_workers": 0, "save_step": 2, "val_pictures": 0, "val_max_samples": 4}


def few_steps(monkeypatch, module):
    """Let a script's runs take two steps, on little data."""
    short1 = partial(tiny_runs.train_stage1, **FEW)
    short2 = partial(tiny_runs.train_stage2, **FEW)
    sizes = {"pictures": 100, "pairs": 100, "test": 4}
    monkeypatch.setattr(module, "make_data", lambda folder, **_: tiny_runs.make_data(folder, **sizes))
    monkeypatch.setattr(
        module, "train_stage1", lambda run, config, data, **s: short1(run, config, data, **{**s, **FEW, "num_steps": 2})
    )
    name = "run_stage2" if module is quickstart else "train_stage2"
    monkeypatch.setattr(
        module,
        name,
        lambda run, data, stage1, _=None, **s: short2(run, data, stage1, (2, 2), **{**s, **FEW}),
    )


def test_the_quickstart_goes_from_data_to_report_and_reuses_what_is_there(monkeypatch, tmp_path, capsys):
    few_steps(monkeypatch, quickstart)
    quickstart.main(["--out", str(tmp_path / "out")])
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert {"caption_f1", "caption_exact", "reconstruction_f1", "seconds"} <= summary.keys()
    assert summary["caption_f1"] < 0.5  # two steps teach nothing
    assert (out / "report.html").read_text().count("<img") == 8
    text = capsys.readouterr().out
    assert "This is the small world" in text
    assert text.rstrip().endswith("report.html")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    quickstart.main(["--out", str(out)])
    assert written
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert json.loads((out / "summary.json").read_text()) == summary  # the first call's time stays


def test_a_row_goes_from_data_to_table_and_kept_files(monkeypatch, tmp_path):
    few_steps(monkeypatch, reproduce_tiny)
    monkeypatch.setattr(reproduce_tiny, "SHORT_LEGS", 2)  # two runs show how one goes on from the other
    out = tmp_path / "out"
    reproduce_tiny.main(["--out", str(out), "--only", "base"])
    row = json.loads((out / "results.json").read_text())["base"]
    assert row["own_reconstruction_f1"] <= 1
    assert "fd_vision_tower" in row
    assert "| shorter recipe: stage 1 has seen 723,200 pictures |" in (out / "table.md").read_text()
    captioner = out / "short" / "stage2_base" / "final"
    tiny_keep.keep_checkpoints(out / "full" / "stage1_leg2" / "final", captioner, tmp_path / "a" / "trained")
    kept = tmp_path / "a" / "trained" / "captioner"
    assert str(ROOT) not in (kept / "config.json").read_text()
    config = json.loads((kept / "config.json").read_text())
    assert config["origin"]["stage1"]["source"] == "../stage1"
    assert config["origin"]["florence2"]["source"] == "../../florence2"
    for base in ("florence2", "stable-diffusion"):
        (tmp_path / "a" / base).symlink_to(ROOT / "assets" / "tiny" / base)
    whole, loaded = VLVCaptioner.from_pretrained(captioner), VLVCaptioner.from_pretrained(kept)
    assert (kept / "model.safetensors").stat().st_size < 0.4 * (captioner / "model.safetensors").stat().st_size
    weights = loaded.state_dict()
    # The run kept its frozen weights in bf16, the bases are in fp16.
    assert all(torch.allclose(value, weights[name], atol=1e-2) for name, value in whole.state_dict().items())
    assert not AutoModel.from_pretrained(kept).config.frozen_in_bases
    loaded.save_pretrained(tmp_path / "again")  # whole, wherever it is written
    assert VLVCaptioner.from_pretrained(tmp_path / "again").origin == loaded.origin
    (tmp_path / "a" / "florence2").unlink()
    with pytest.raises(CheckpointError, match=r"florence2, which is not there any more"):
        VLVCaptioner.from_pretrained(kept)


def test_a_finished_run_needs_none_of_those_before_it(tmp_path):
    final = tmp_path / "full" / "stage1_leg3" / "final"
    final.mkdir(parents=True)
    assert reproduce_tiny.World(tmp_path, tiny_runs.Data(*[tmp_path] * 5)).leg(3) == final


def test_both_runs_of_stage2_train_what_a_row_asks_for(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        tiny_runs, "_train", lambda _, run, config, settings: calls.append((run.name, settings)) or run / "final"
    )
    data = tiny_runs.Data(*[tmp_path] * 5)
    tiny_runs.train_stage2(tmp_path / "b", data, tmp_path, (3, 2), train=("mlp", "llm"), reading_lr=1e-3)
    (first, reading), (second, then) = calls
    assert (first, second) == ("b_reading", "b")
    assert (reading["train"], reading["total_steps"], reading["lr"]) == ("[mlp,llm]", 3, 1e-3)
    assert (then["train"], then["total_steps"], then["encoder_lr"]) == ("[mlp,llm]", 2, "null")
    assert "lr" not in then
    tiny_runs.train_stage2(tmp_path / "c", data, tmp_path, diffusion_weight=3.0, reading_of=tmp_path / "b")
    assert [name for name, _ in calls[2:]] == ["b_reading", "c"]
    assert calls[3][1]["diffusion_weight"] == 3.0
    assert "encoder_lr" not in calls[3][1]


def test_a_failed_launcher_is_said_with_what_to_do(monkeypatch, tmp_path, capsys):
    few_steps(monkeypatch, quickstart)
    monkeypatch.setattr(tiny_runs, "FAMILY", tmp_path / "nowhere")
    with pytest.raises(SystemExit) as ended:
        quickstart.main(["--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert "train_stage1.sh ended with exit code 2; run the same command again" in capsys.readouterr().err


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    write_scenes(folder, "test", range(16), "folder", captions=True)
    return folder


def test_the_kept_captioner_captions_at_once(launch, held_out, tmp_path):
    done = launch(
        "Caption_inference.sh",
        IMAGE_PATH=held_out,
        CKPT_DIR=TRAINED / "captioner",
        OUTPUT_DIR=tmp_path / "captions.json",
        CONFIG=ROOT / "configs/caption_shapes.yaml",
        PREVIEW_DIR=tmp_path / "previews",
    )
    assert done.returncode == 0, done.stderr
    assert measure(tmp_path / "captions.json")["f1"] > 0.9
    assert (tmp_path / "previews" / "index.html").is_file()


def test_the_kept_stage1_draws_at_once(launch, held_out, tmp_path):
    done = launch(
        "Image_inference.sh",
        "num_inference_steps=25",
        IMAGE_PATH=held_out,
        CKPT_DIR=TRAINED / "stage1",
        OUTPUT_DIR=tmp_path / "drawn",
        CONFIG=ROOT / "configs/reconstruct_shapes.yaml",
    )
    assert done.returncode == 0, done.stderr
    assert measure(tmp_path / "drawn" / "reconstructions")["f1"] > 0.8


@pytest.mark.slow
def test_the_whole_quickstart_captions_rightly(tmp_path):
    quickstart.main(["--out", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["caption_f1"] >= 0.9
    assert summary["seconds"] <= 600
