"""The small world's two commands, through the command line: a few steps of each by default, whole ones marked slow."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModel

from scripts import measure_f1_time
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

    def stage2(run, data, stage1, settings, recipe="stage2_shapes"):
        return tiny_runs.train_stage2(run, data, stage1, {**settings, **FEW, "total_steps": 2}, recipe)

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
    assert summary["held_out_pictures"] == 4
    assert summary["pictures_seen_before_quickstart"] == 0
    assert summary["reconstruction_f1"] == summary["reconstruction_f1_after_stage1"]
    assert {"reconstruction_f1_before_stage1", "caption_f1_before_stage2", "caption_exact"} <= summary.keys()
    parts = ("stage1_seconds", "stage2_seconds", "measuring_seconds")
    assert 0 < sum(summary[part] for part in parts) < summary["seconds"]
    assert (out / "report.html").read_text().count("<img") == 8
    text = capsys.readouterr().out
    assert text.startswith("Shipped (assets/tiny): ")
    assert "both start from nothing" in text
    assert "== reconstruction F1, before stage 1: " in text
    assert "== caption F1, after stage 2: " in text
    assert "95 % interval" in text
    assert "This is the small world" in text
    assert text.rstrip().endswith("report.html")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    quickstart_command.main([f"out={out}"])
    assert written
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert json.loads((out / "summary.json").read_text()) == summary  # the first call's time stays


def test_the_first_screen_states_what_is_shipped_and_measured():
    header = (ROOT / "scripts" / "quickstart.sh").read_text()
    for text in (header, quickstart.__doc__, quickstart_command.__doc__):
        plain = " ".join(text.replace("#", " ").split())
        assert "from nothing" in plain
        assert f"{quickstart.PICTURES:,} pictures without any text" in plain
        assert f"{quickstart.PAIRS:,} pictures with captions" in plain
        assert f"{quickstart.HELD_OUT} held-out pictures" in plain


def test_a_row_goes_from_data_to_table_and_kept_files(monkeypatch, tmp_path):
    few_steps(monkeypatch, tiny_rows, reproduce_tiny)
    monkeypatch.setattr(tiny_rows, "SEEDS", (42, 43))
    out = tmp_path / "out"
    reproduce_tiny.main([f"out={out}", "only=base"])
    row = json.loads((out / "results.json").read_text())["base"]
    assert row["caption_f1_min"] <= row["caption_f1"] <= row["caption_f1_max"]
    assert "fd_vision_tower" in row
    assert "| the quickstart's recipe, three seeds of both stages |" in (out / "table.md").read_text()
    captioner = out / "short" / "stage2_base" / "final"
    tiny_keep.keep_checkpoints(out / "short" / "stage1_base" / "final", captioner, tmp_path / "a" / "trained")
    kept = tmp_path / "a" / "trained" / "captioner"
    assert str(ROOT) not in (kept / "config.json").read_text()
    config = json.loads((kept / "config.json").read_text())
    assert config["origin"]["stage1"]["source"] == "../stage1"
    assert config["origin"]["florence2"]["source"] == "../../florence2"
    for base in ("florence2", "stable-diffusion"):
        (tmp_path / "a" / base).symlink_to(ROOT / "assets" / "tiny" / base)
    whole, loaded = VLVCaptioner.from_pretrained(captioner), VLVCaptioner.from_pretrained(kept)
    assert (kept / "model.safetensors").stat().st_size < 0.5 * (captioner / "model.safetensors").stat().st_size
    weights = loaded.state_dict()
    # The run may keep its frozen weights in bf16, and the bases and what is kept are in fp16: whitening has large ones.
    assert all(torch.allclose(value, weights[name], rtol=2e-3, atol=1e-2) for name, value in whole.state_dict().items())
    assert AutoModel.from_pretrained(kept).config.adapter_bases is None
    loaded.save_pretrained(tmp_path / "again")  # whole, wherever it is written
    assert VLVCaptioner.from_pretrained(tmp_path / "again").origin == loaded.origin
    (tmp_path / "a" / "florence2").unlink()
    with pytest.raises(CheckpointError, match=r"florence2, which is not there any more"):
        VLVCaptioner.from_pretrained(kept)


def test_the_kept_stage1_stands_in_for_a_training(tmp_path):
    assert tiny_rows.World(tmp_path, no_data(), no_data(), kept=True).full_stage1() == TRAINED / "stage1"


def test_an_arm_is_measured_at_its_best_rates(monkeypatch, tmp_path):
    trained, losses = [], {4e-3: 0.5, 8e-3: 0.25}

    def train(run, data, stage1, settings):
        final = run / "final"
        final.mkdir(parents=True, exist_ok=True)
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "val/loss": losses[settings["lr"]]}) + "\n")
        trained.append((settings["lr"], settings["projector_lr"], settings["seed"]))
        return final

    monkeypatch.setattr(tiny_rows, "train_stage2", train)
    monkeypatch.setattr(tiny_rows, "measured_captions", lambda run, *_: {"caption_f1": 0.5 + 0.1 * len(run.parts[-2])})
    arm = tiny_rows.Arm("arm", lambda world: tmp_path, {}, seeds=(42, 43))
    row = arm.row(tiny_rows.World(tmp_path, no_data(), no_data()))
    assert set(trained) == {(4e-3, 1.6e-2, 42), (8e-3, 3.2e-2, 42), (8e-3, 3.2e-2, 43)}
    assert (row["lr"], row["validation_loss"]) == (8e-3, 0.25)
    assert row["caption_f1_min"] < row["caption_f1"] < row["caption_f1_max"]


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
        if name == "mlp_alone":
            sys.exit(3)
        (out / "rows" / f"{name}.json").write_text('{"caption_f1": 0.5}')
    """
    commands = []

    def row_command(name, world):
        commands.append(name)
        return [sys.executable, "-c", code, str(world.out), name]

    monkeypatch.setattr(reproduce_tiny, "make_data", lambda folder, **_: no_data())
    monkeypatch.setattr(reproduce_tiny, "row_command", row_command)
    call = [f"out={out}", "only=[base,mlp_alone,adamw]"]
    with pytest.raises(SystemExit):
        reproduce_tiny.main(call)
    assert sorted(commands) == ["adamw", "base", "mlp_alone"]
    printed = capfd.readouterr().err
    assert {"base: trains", "adamw: trains", "mlp_alone: trains"} <= set(printed.splitlines())
    assert "row mlp_alone ended with exit code 3" in printed
    assert "not finished: mlp_alone. The same command resumes" in printed
    (out / "rows" / "mlp_alone.json").write_text('{"caption_f1": 0.25}')
    reproduce_tiny.main(call)  # all are there: nothing starts
    assert len(commands) == 3
    assert json.loads((out / "results.json").read_text())["mlp_alone"] == {"caption_f1": 0.25}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["only=nothing"], "only=nothing cannot be used: the rows are full, family"),
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
    monkeypatch.setattr(tiny_rows, "validation_loss", lambda final: -len(started))
    monkeypatch.setattr(tiny_rows, "measured_pictures", lambda *_: {"reconstruction_f1": 0.5})
    row = tiny_rows.ROWS["adamw"][1](tiny_rows.World(tmp_path, no_data(), no_data()))
    assert (row["reconstruction_f1"], row["lr"]) == (0.5, 6e-3)
    assert set(started) == {"stage1_adamw_lr0.003", "stage1_adamw_lr0.006"}


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


def test_rows_of_an_earlier_run_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(tiny_keep.MARKS))
    tiny_keep.keep_results({"full": {"caption_f1": 0.5}, "base": {"caption_f1": 0.25}}, tmp_path, page)
    tiny_keep.keep_results({"smollm2": {"caption_f1": 0.125}, "full": {"caption_f1": 0.75}}, tmp_path, page)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {name: row["caption_f1"] for name, row in rows.items()} == {"full": 0.75, "base": 0.25, "smollm2": 0.125}
    assert [line.split(" | ")[1] for line in page.read_text().splitlines()[3:6]] == ["0.750", "0.250", "0.125"]


def test_the_kept_table_is_that_of_the_kept_results():
    rows = json.loads((tiny_keep.DOCS / "results.json").read_text())
    assert set(rows) == set(tiny_rows.ROWS)
    titles = {name: title for name, (title, _) in tiny_rows.ROWS.items()}
    assert (tiny_keep.DOCS / "table.md").read_text() == markdown(rows, titles)


def test_a_failed_training_is_reported_with_what_to_do(monkeypatch, tmp_path, capsys):
    few_steps(monkeypatch, quickstart)
    monkeypatch.setattr(quickstart, "STAGE1", {"warmup_steps": -1})
    with pytest.raises(SystemExit) as ended:
        quickstart_command.main([f"out={tmp_path / 'out'}"])
    assert ended.value.code == 1
    assert "vlv stage1 ended with exit code 2; the same command resumes" in capsys.readouterr().err


def test_recipes_are_timed_until_their_reconstructions_and_what_is_there_is_kept(monkeypatch, tmp_path, capsys):
    few_steps(monkeypatch, measure_f1_time)
    monkeypatch.setattr(measure_f1_time, "ARMS", (measure_f1_time.Arm(2, 4, 100),))
    call = ["seeds=[7]", f"out={tmp_path / 'out'}", f"json={tmp_path / 'f1.json'}"]
    measure_f1_time.main(call)
    row = json.loads((tmp_path / "f1.json").read_text())["rows"][0]
    low, high = row["interval"]
    assert (row["steps"], row["batch"], row["pictures"], row["seed"]) == (2, 4, 100, 7)
    assert row["seconds"] > 0
    assert 0 <= low <= row["f1"] <= high <= 1
    capsys.readouterr()
    measure_f1_time.main(call)
    assert json.loads((tmp_path / "f1.json").read_text())["rows"] == [row]
    assert f"| 2 | 4 | 100 | 7 | {row['seconds']:.0f} |" in capsys.readouterr().out


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
    assert summary["reconstruction_f1"] >= 0.6
    assert summary["caption_f1_before_stage2"] < 0.1
    assert summary["reconstruction_f1_before_stage1"] < 0.1
    assert summary["seconds"] <= 600
