"""The number format of a run: chosen once, and kept by what continues it."""

import json

import pytest

from vlv.config import Stage1Config
from vlv.recipes.precision import settle_inference, settle_precision, settle_training
from vlv.training.precision import LARGE, Choice


@pytest.fixture
def sizes(monkeypatch):
    """What a CPU with bf16 is asked: the bytes of weights of each choice."""
    asked = []

    def choose(size):
        asked.append(size)
        return Choice("bf16" if size >= LARGE else "fp32", "measured so")

    monkeypatch.setattr("vlv.recipes.precision.on_gpu", lambda: False)
    monkeypatch.setattr("vlv.recipes.precision.cpu_has_bf16", lambda: True)
    monkeypatch.setattr("vlv.recipes.precision.choose_precision", choose)
    return asked


def test_auto_says_what_it_chose_for_large_weights(sizes, tmp_path, capsys):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(LARGE)
    assert settle_precision("auto", str(tmp_path), "ckpt_dir").precision == "bf16"
    assert sizes == [LARGE]
    assert capsys.readouterr().err == "precision=auto is bf16: measured so\n"


def test_auto_is_silent_for_small_ones(sizes, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"123")
    assert settle_precision("auto", str(tmp_path), "ckpt_dir").precision == "fp32"
    assert (sizes, capsys.readouterr().err) == ([3], "")


def test_configs_without_weights_are_those_of_published_models(sizes, tmp_path):
    assert settle_precision("auto", str(tmp_path), "ckpt_dir").precision == "bf16"


def test_what_is_set_or_recorded_is_not_chosen(sizes, tmp_path):
    assert settle_precision("fp32", "", "ckpt_dir").precision == "fp32"
    assert settle_precision("auto", "", "ckpt_dir", recorded="bf16").precision == "bf16"
    assert settle_precision("auto", str(tmp_path), "ckpt_dir", recorded="fp16").reason == "measured so"
    assert len(sizes) == 1, "fp16 cannot go on without a GPU"


@pytest.mark.parametrize(
    ("saved", "taken"),
    [("precision: bf16\n", "bf16"), ("precision: auto\n", "fp32"), ("lr: 1e-3\n", "fp32"), (None, "fp32")],
)
def test_a_training_goes_on_in_the_format_of_its_checkpoint(sizes, monkeypatch, tmp_path, saved, taken):
    monkeypatch.setattr("vlv.recipes.precision.find_checkpoint", lambda resume, folder: tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"123")
    if saved is not None:
        (tmp_path / "config.yaml").write_text(saved)
    config, choice = settle_training(Stage1Config(resume="latest"), str(tmp_path), "florence2_model_path")
    assert config.precision == choice.precision == taken


def test_an_inference_run_goes_on_as_it_began_with_the_same_model_alone(sizes, tmp_path):
    path, checkpoint = tmp_path / "identity.json", tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"123")
    precision, identity = settle_inference("auto", str(checkpoint), path, quantize="int8")
    assert precision == identity["precision"] == "fp32"
    path.write_text(json.dumps({**identity, "precision": "bf16", "num_beams": 1}))
    assert settle_inference("auto", str(checkpoint), path, quantize="int8")[0] == "bf16"
    assert settle_inference("fp32", str(checkpoint), path, quantize="int8")[0] == "fp32"
    assert settle_inference("auto", str(checkpoint), path, quantize="int4")[0] == "fp32"
    (checkpoint / "model.safetensors").write_bytes(b"456")  # trained on meanwhile
    assert settle_inference("auto", str(checkpoint), path, quantize="int8")[0] == "fp32"


def test_on_machines_that_are_not_known_it_is_fp32(sizes, capsys):
    assert settle_precision("auto", "", "ckpt_dir", elsewhere=True).precision == "fp32"
    assert "set precision=bf16 where they have GPUs" in capsys.readouterr().err
