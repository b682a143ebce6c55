"""The small world's two commands, through the command line: a few steps of each by default, whole ones marked slow."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoModel

from scripts.small_world import keep as tiny_keep
from scripts.small_world import reproduce as reproduce_tiny
from scripts.small_world import rows as tiny_rows
from scripts.small_world.results import markdown, write_results
from tests.integration.conftest import ROOT
from vlv import VLVCaptioner
from vlv.checkpoints.identity import CheckpointError
from vlv.cli import quickstart as quickstart_command
from vlv.shapes import quickstart
from vlv.shapes import runs as tiny_runs
from vlv.shapes.measure_files import measure
from vlv.shapes.writing import write_scenes

TRAINED = ROOT / "assets" / "tiny" / "trained"
FEW = {"num_workers": 0, "save_step": 2, "val_pictures": 0, "val_max_samples": 4}


def few_steps(monkeypatch, *modules):
    """Let the runs that these modules start take two steps, on little data."""

    def stage1(run, data, settings):
        return tiny_runs.train_stage1(run, data, {**settings, **FEW, "num_steps": 2})

    def stage2(run, data, stage1, how, settings=None):
        return tiny_runs.train_stage2(run, data, stage1, replace(how, steps=(2, 2)), {**(settings or {}), **FEW})

    def data(folder, **sizes):
        few = {"pictures": 100, "pairs": 100, "test": 4, "unseen": 4, "subset": 2}
        return tiny_runs.make_data(folder, **{name: few[name] for name in sizes})

    for module in modules:
        for name, function in (("train_stage1", stage1), ("train_stage2", stage2), ("make_data", data)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)


def no_data():
    return tiny_runs.Data(*[ROOT / "nowhere"] * 6)


def test_the_quickstart_goes_from_data_to_report_and_reuses_what_is_there(monkeypatch, tmp_path, capsys):
    few_steps(monkeypatch, quickstart)
    out = tmp_path / "out"
    quickstart_command.main([f"out={out}"])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["caption_f1"] < 0.5  # two steps teach nothing
    low, high = summary["intervals"]["caption_f1"]
    assert low <= summary["caption_f1"] <= high
    assert (summary["held_out_pictures"], summary["reconstructed_pictures"]) == (4, 2)
    assert summary["pictures_seen_before_quickstart"] == 723_200
    parts = ("stage2_seconds", "caption_seconds", "reconstruction_seconds")
    assert 0 < sum(summary[part] for part in parts) < summary["seconds"]
    assert (out / "report.html").read_text().count("<img") == 4
    text = capsys.readouterr().out
    assert text.startswith("Shipped (assets/tiny): ")
    assert "723,200 pictures without any text" in text
    assert "95 % interval" in text
    assert "This is the small world" in text
    assert text.rstrip().endswith("report.html")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    quickstart_command.main([f"out={out}"])
    assert written
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert json.loads((out / "summary.json").read_text()) == summary  # the first call's time stays


def test_the_first_screen_states_what_is_shipped_and_measured():
    seen = f"{tiny_runs.pictures_seen(tiny_runs.SHORT_PHASES):,} pictures"
    header = (ROOT / "scripts" / "quickstart.sh").read_text()
    for text in (header, quickstart.__doc__, quickstart_command.__doc__):
        assert seen in " ".join(text.split())
        assert "from nothing" not in text
        assert f"{quickstart.PAIRS:,} pictures with captions" in " ".join(text.replace("#", " ").split())
    for text in (header, quickstart_command.__doc__):
        assert f"{quickstart.CAPTIONED} held-out pictures" in " ".join(text.split())
        assert f"reconstructions of {quickstart.RECONSTRUCTED}" in " ".join(text.split())


def test_a_row_goes_from_data_to_table_and_kept_files(monkeypatch, tmp_path):
    few_steps(monkeypatch, tiny_rows, reproduce_tiny)
    monkeypatch.setattr(tiny_rows, "SHORT_PHASES", 2)  # two phases show how one continues the other
    out = tmp_path / "out"
    reproduce_tiny.main([f"out={out}", "only=base"])
    row = json.loads((out / "results.json").read_text())["base"]
    assert row["own_reconstruction_f1"] <= 1
    assert "fd_vision_tower" in row
    assert "| shorter recipe: stage 1 has seen 723,200 pictures |" in (out / "table.md").read_text()
    captioner = out / "short" / "stage2_base" / "final"
    tiny_keep.keep_checkpoints(out / "full" / "stage1_phase2" / "final", captioner, tmp_path / "a" / "trained")
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
    assert AutoModel.from_pretrained(kept).config.adapter_bases is None
    loaded.save_pretrained(tmp_path / "again")  # whole, wherever it is written
    assert VLVCaptioner.from_pretrained(tmp_path / "again").origin == loaded.origin
    (tmp_path / "a" / "florence2").unlink()
    with pytest.raises(CheckpointError, match=r"florence2, which is not there any more"):
        VLVCaptioner.from_pretrained(kept)


def test_a_finished_phase_needs_none_of_those_before_it(tmp_path):
    final = tmp_path / "full" / "stage1_phase3" / "final"
    final.mkdir(parents=True)
    assert tiny_rows.World(tmp_path, no_data()).phase(3) == final
    kept = tiny_rows.World(tmp_path, no_data(), kept=True)
    assert (kept.full_stage1(), kept.short_stage1()) == (TRAINED / "stage1", TRAINED / "early")


def test_data_that_an_interrupted_call_left_half_written_is_written_anew(tmp_path):
    data = tiny_runs.make_data(tmp_path, pairs=4, test=3)
    assert not data.pictures.exists()
    written = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    (tmp_path / ".test.written").unlink()
    next(data.test.glob("*.png")).unlink()
    again = tiny_runs.make_data(tmp_path, pairs=4, test=3)
    assert again == data
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == written


def test_the_time_of_an_interrupted_result_is_not_reported(tmp_path):
    with tiny_runs.timed(tmp_path / "whole"):
        pass
    with pytest.raises(KeyboardInterrupt), tiny_runs.timed(tmp_path / "interrupted"):
        raise KeyboardInterrupt
    with tiny_runs.timed(tmp_path / "interrupted"):
        pass
    assert tiny_runs.seconds_of(tmp_path / "whole") < 1
    assert tiny_runs.seconds_of(tmp_path / "whole", tmp_path / "interrupted") is None
    assert tiny_runs.seconds_of(tmp_path / "never") is None


def test_rows_run_side_by_side_and_one_that_fails_stops_no_other(monkeypatch, tmp_path, capfd):
    out = tmp_path / "out"
    code = """if True:
        import sys, time
        from pathlib import Path
        out, name = Path(sys.argv[1]), sys.argv[2]
        (out / f"{name}.begun").touch()
        while len(list(out.glob("*.begun"))) < 2:  # waits for a second one beside it
            time.sleep(0.01)
        print("trains", flush=True)
        (out / "rows").mkdir(exist_ok=True)
        if name == "train_mlp":
            sys.exit(3)
        (out / "rows" / f"{name}.json").write_text('{"caption_f1": 0.5}')
    """
    commands = []

    def row_command(name, world):
        commands.append(name)
        return [sys.executable, "-c", code, str(world.out), name]

    monkeypatch.setattr(reproduce_tiny, "make_data", lambda folder, **_: no_data())
    monkeypatch.setattr(reproduce_tiny, "row_command", row_command)
    call = [f"out={out}", "only=[base,train_mlp,queries_4]"]
    with pytest.raises(SystemExit):
        reproduce_tiny.main(call)
    assert sorted(commands) == ["base", "queries_4", "train_mlp"]
    printed = capfd.readouterr().err
    assert {"base: trains", "queries_4: trains", "train_mlp: trains"} <= set(printed.splitlines())
    assert "row train_mlp ended with exit code 3" in printed
    assert "not finished: train_mlp. The same command resumes" in printed
    (out / "rows" / "train_mlp.json").write_text('{"caption_f1": 0.25}')
    reproduce_tiny.main(call)  # all are there: nothing starts
    assert len(commands) == 3
    assert json.loads((out / "results.json").read_text())["train_mlp"] == {"caption_f1": 0.25}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["only=nothing"], "only=nothing cannot be used: the rows are one_encoder, full"),
        (["jobs=9"], "jobs=9 cannot be used: give 1 to 8"),
        (["--list"], "--list is not an option"),
    ],
)
def test_a_call_that_cannot_work_is_refused(call, message, capsys):
    with pytest.raises(SystemExit) as ended:
        reproduce_tiny.main(call)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_list_names_the_rows(capsys):
    reproduce_tiny.main(["list=true"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(tiny_rows.ROWS)


def test_a_run_that_two_rows_share_is_made_once(monkeypatch, tmp_path):
    started = []

    def run_vlv(command, recipe, settings):
        started.append((command, recipe))
        time.sleep(0.2)
        (settings["output_dir"] / "final").mkdir(parents=True)

    monkeypatch.setattr(tiny_runs, "run_vlv", run_vlv)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(tiny_runs.train_stage1, tmp_path / "run", no_data(), {}) for _ in range(2)]
        assert [run.result() for run in runs] == [tmp_path / "run" / "final"] * 2
    assert started == [("stage1", "stage1_shapes")]


def test_a_row_of_its_own_stage1_starts_no_other_stage1(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(tiny_rows, "train_stage1", lambda run, *_: started.append(run.name) or run / "final")
    monkeypatch.setattr(tiny_rows, "train_stage2", lambda run, *_: run / "final")
    monkeypatch.setattr(tiny_rows, "measured_captions", lambda *_: {})
    monkeypatch.setattr(tiny_rows, "measured_pictures", lambda *_: {"reconstruction_f1": 0.5})
    world = tiny_rows.World(tmp_path, no_data())
    assert tiny_rows.ROWS["queries_4"][1](world)["reconstruction_f1"] == 0.5
    assert started == ["stage1_queries_4"]
    tiny_rows.ROWS["pictures_phase2"][1](world)
    assert started[1:] == ["stage1_phase1", "stage1_phase2"]


def test_tables_of_their_own_hold_what_has_other_measures(tmp_path):
    (tmp_path / "rows").mkdir()
    for name, row in (("full", {"caption_f1": 0.5}), ("guidance", {"reconstruction_f1_at_2": 0.25})):
        (tmp_path / "rows" / f"{name}.json").write_text(json.dumps(row))
    write_results(tmp_path, {"full": "full recipe", "guidance": "by guidance"})
    table = (tmp_path / "table.md").read_text()
    assert "| full recipe | 0.500 |" in table
    assert "| reconstruction f1 at 2 | 0.250 |" in table
    assert table.count("by guidance") == 1  # the head of its table, and no row


def test_the_page_has_the_kept_tables(tmp_path):
    assert tiny_keep.PAGE.read_text().count((tiny_keep.DOCS / "table.md").read_text()) == 1
    page = tmp_path / "page.md"
    page.write_text("a\n{}\nold\n{}\nb\n".format(*tiny_keep.MARKS))
    tiny_keep.write_table(page, "| new |\n")
    assert page.read_text() == "a\n{}\n| new |\n{}\nb\n".format(*tiny_keep.MARKS)


def test_the_kept_table_is_that_of_the_kept_results():
    rows = json.loads((tiny_keep.DOCS / "results.json").read_text())
    assert set(rows) == set(tiny_rows.ROWS)
    titles = {name: title for name, (title, _) in tiny_rows.ROWS.items()}
    assert (tiny_keep.DOCS / "table.md").read_text() == markdown(rows, titles)


def test_both_phases_of_stage2_train_what_a_row_asks_for(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(tiny_runs, "_train", lambda *call: calls.append(call) or call[2] / "final")
    data, how = no_data(), tiny_runs.Stage2

    def train(name, plan):
        calls.clear()
        tiny_runs.train_stage2(tmp_path / name, data, tmp_path, plan)
        (_, first_recipe, first, warmup), (_, second_recipe, second, then) = calls
        assert (first_recipe, second_recipe) == ("stage2_shapes_warmup", "stage2_shapes")
        assert then["initial_checkpoint"] == first / "final"
        return first.name, warmup, second.name, then

    first, warmup, second, then = train("b", how((3, 2), train=("mlp", "llm"), warmup_lr=1e-3))
    assert (first, second) == ("b_warmup", "b")
    assert (warmup["train"], warmup["total_steps"], warmup["lr"]) == ("[mlp,llm]", 3, 1e-3)
    assert (then["train"], then["total_steps"], then["encoder_lr"]) == ("[mlp,llm]", 2, "null")
    assert "lr" not in then
    first, warmup, second, then = train("c", how(diffusion_weight=3.0, warmup_of=tmp_path / "b"))
    assert (first, second) == ("b_warmup", "c")
    assert (warmup["train"], then["train"]) == ("[mlp,llm]", "[mlp,llm,encoder]")
    assert then["diffusion_weight"] == 3.0
    assert not {"total_steps", "encoder_lr"} & then.keys()
    _, warmup, _, then = train("d", how(encoder_waits=False))
    assert warmup["train"] == then["train"] == "[mlp,llm,encoder]"
    recipe = yaml.safe_load((ROOT / "configs" / "stage2_shapes.yaml").read_text())
    assert warmup["encoder_lr"] == recipe["encoder_lr"]


def test_a_failed_training_is_reported_with_what_to_do(monkeypatch, tmp_path, capsys):
    few_steps(monkeypatch, quickstart)
    monkeypatch.setattr(quickstart, "STAGE1", tmp_path / "nowhere")
    with pytest.raises(SystemExit) as ended:
        quickstart_command.main([f"out={tmp_path / 'out'}"])
    assert ended.value.code == 1
    assert "vlv stage2 ended with exit code 2; the same command resumes" in capsys.readouterr().err


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


def test_the_kept_stage1_reconstructs_at_once(launch, held_out, tmp_path):
    done = launch(
        "Image_inference.sh",
        "num_inference_steps=25",
        IMAGE_PATH=held_out,
        CKPT_DIR=TRAINED / "stage1",
        OUTPUT_DIR=tmp_path / "reconstructed",
        CONFIG=ROOT / "configs/reconstruct_shapes.yaml",
    )
    assert done.returncode == 0, done.stderr
    assert measure(tmp_path / "reconstructed" / "reconstructions")["f1"] > 0.8


@pytest.mark.slow
def test_the_whole_quickstart_captions_rightly(tmp_path):
    quickstart_command.main([f"out={tmp_path / 'out'}"])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["caption_f1"] >= 0.9
    assert summary["reconstruction_f1"] >= 0.9
    assert summary["seconds"] <= 600
