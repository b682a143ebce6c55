"""Ours -> published -> ours is equal to the last byte; the other way all but the dropped tensors."""

import pytest
import torch
from safetensors.torch import load_file

from scripts.export_reference import main
from tests.parity.conftest import SHARED
from vlv.identity import read_json
from vlv.models.conversion import import_stage1, import_stage2
from vlv.models.foreign import open_foreign

HEAD = "model.language_model.lm_head.weight"
BIAS = "model.language_model.final_logits_bias"


def tensors(folder):
    return {name: value for path in folder.glob("model*.safetensors") for name, value in load_file(path).items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_stage1_round_trips(imported_stage1, stage1_file, component_bases, tmp_path, suffix, capsys):
    exported = tmp_path / f"stage1.{suffix}"
    main([str(imported_stage1), str(exported)])
    assert "stage1" in capsys.readouterr().out
    source = open_foreign(exported)
    original = load_file(stage1_file)
    assert set(source.shapes) == original.keys() - {BIAS}
    for name in source:
        expected = original[SHARED] if name == HEAD else original[name]
        assert torch.equal(source[name], expected), name
    import_stage1(source, tmp_path / "again", component_bases, resolutions=(64, 128))
    assert equal(tensors(tmp_path / "again"), tensors(imported_stage1))
    assert read_json(tmp_path / "again" / "config.json") == read_json(imported_stage1 / "config.json")


def test_stage2_round_trips(imported_stage2, stage2_file, component_bases, bases, tmp_path):
    exported = tmp_path / "model.safetensors"
    main([str(imported_stage2), str(exported)])
    source, original = open_foreign(exported), load_file(stage2_file)
    assert set(source.shapes) == original.keys() - {f"VLV_model.{BIAS}"}
    for name in source:
        expected = original[f"VLV_model.{SHARED}"] if name == f"VLV_model.{HEAD}" else original[name]
        assert torch.equal(source[name], expected), name
    import_stage2(source, tmp_path / "again", component_bases, str(bases / "qwen"), resolutions=(64, 128))
    assert equal(tensors(tmp_path / "again"), tensors(imported_stage2))


def test_bad_calls_are_one_line(imported_stage1, tmp_path, capsys):
    for source, destination, words in (
        (tmp_path, tmp_path / "a.pt", "so it is no VLV checkpoint"),
        (imported_stage1, tmp_path / "a.txt", "give a file that ends in"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([str(source), str(destination)])
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
