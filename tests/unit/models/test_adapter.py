"""A captioner saved without what its bases hold is, once loaded, the whole one."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from tests.models import new_captioner, new_stage1
from vlv import VLVCaptioner
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.inspection import describe_checkpoint
from vlv.models.adapter import NEVER_TRAINED
from vlv.published.export import export_checkpoint


@pytest.fixture(scope="module")
def place(tiny_components, tmp_path_factory):
    """Bases, stage 1 and a captioner of two kinds, whole and as adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    shutil.copytree(tiny_components, folder, dirs_exist_ok=True)
    new_stage1(folder, num_queries=4).save_pretrained(folder / "stage1")
    for name, trained in (("all", ["mlp", "llm", "encoder"]), ("mlp", ["mlp"])):
        captioner = new_captioner(folder / "stage1", folder / "qwen", trained=trained, max_caption_tokens=8)
        with torch.no_grad():
            for value in captioner.parameters():
                if value.requires_grad:
                    value.add_(0.5)
        captioner.save_pretrained(folder / f"whole_{name}")
        captioner.save_pretrained(folder / f"adapter_{name}", adapter=True)
    return folder


@pytest.mark.parametrize(
    ("name", "bases"), [("all", {"florence2", "decoder"}), ("mlp", {"florence2", "decoder", "language_model"})]
)
def test_an_adapter_loads_as_the_whole_captioner(place, name, bases):
    adapter, whole = place / f"adapter_{name}", place / f"whole_{name}"
    assert set(json.loads((adapter / "config.json").read_text())["adapter_bases"]) == bases
    held = load_file(adapter / "model.safetensors")
    assert not [key for key in held if key.startswith(NEVER_TRAINED)]
    assert any(key.startswith("llm.") for key in held) == ("language_model" not in bases)
    expected = VLVCaptioner.from_pretrained(whole).state_dict()
    for load in (VLVCaptioner.from_pretrained, AutoModel.from_pretrained):
        loaded = load(adapter)
        state = loaded.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
        assert loaded.config.adapter_bases is None


def test_a_loaded_adapter_is_saved_whole_or_as_an_adapter_again(place, tmp_path):
    loaded = VLVCaptioner.from_pretrained(place / "adapter_all")
    loaded.save_pretrained(tmp_path / "whole")
    loaded.save_pretrained(tmp_path / "adapter", adapter=True)
    for name, kept in (("whole", "whole_all"), ("adapter", "adapter_all")):
        one, two = load_file(tmp_path / name / "model.safetensors"), load_file(place / kept / "model.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_rounded_frozen_weights_are_the_bases_and_trained_ones_are_not(place, tmp_path):
    captioner = VLVCaptioner.from_pretrained(place / "whole_all")
    captioner.conditioner.bfloat16()
    with torch.no_grad():
        changed = next(iter(captioner.encoder.vision_tower.parameters()))
        changed.add_(1)
    captioner.save_pretrained(tmp_path, adapter=True)
    held = load_file(tmp_path / "model.safetensors")
    frozen = [key for key in held if key.startswith(NEVER_TRAINED)]
    assert len(frozen) == 1, "the tower's changed weight stays, all others are the base's"
    assert torch.equal(VLVCaptioner.from_pretrained(tmp_path).state_dict()[frozen[0]], changed)


def test_the_former_name_of_the_key_loads(place, tmp_path):
    folder = shutil.copytree(place / "adapter_all", tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    del config["adapter_bases"]
    (folder / "config.json").write_text(json.dumps({**config, "frozen_in_bases": True}))
    loaded = VLVCaptioner.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "frozen_in_bases" not in again
    assert again.get("adapter_bases") is None
    VLVCaptioner.from_pretrained(tmp_path / "again")


def test_a_base_that_is_missing_moved_or_another_is_named(place, tmp_path):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    folder, config = tmp_path / "adapter_all", json.loads((place / "adapter_all" / "config.json").read_text())
    config["origin"]["florence2"]["source"] = "/nowhere/florence2"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="florence2, which is not there any more: set florence2_model_path"):
        VLVCaptioner.from_pretrained(folder)
    VLVCaptioner.from_pretrained(folder, florence2=str(tmp_path / "florence2"))
    other = json.loads((tmp_path / "florence2" / "config.json").read_text())
    (tmp_path / "florence2" / "config.json").write_text(json.dumps({**other, "projection_dim": 7}))
    with pytest.raises(CheckpointError, match="is not the one that the checkpoint was trained with"):
        VLVCaptioner.from_pretrained(folder, florence2=str(tmp_path / "florence2"))
    config["origin"]["florence2"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="leaves weights to its florence2, but does not say which one"):
        VLVCaptioner.from_pretrained(folder)


def test_a_captioner_without_known_bases_is_no_adapter(place, tmp_path):
    captioner = VLVCaptioner.from_pretrained(place / "whole_all")
    captioner.origin.update(florence2=None, decoder=None)
    with pytest.raises(CheckpointError, match="shares no weight with a base that it names: save it whole"):
        captioner.save_pretrained(tmp_path, adapter=True)


def test_an_adapter_is_described_and_exported_as_the_whole_captioner(place, tmp_path):
    whole, adapter = (load_file(export(place / f"{kind}_all", tmp_path)) for kind in ("whole", "adapter"))
    assert whole.keys() == adapter.keys()
    assert all(torch.equal(value, adapter[name]) for name, value in whole.items())
    facts = describe_checkpoint(place / "adapter_all")
    assert facts["adapter"] == "the weights of florence2, decoder are in these bases alone"
    assert "adapter" not in describe_checkpoint(place / "whole_all")


def export(folder, tmp_path):
    destination = tmp_path / f"{folder.name}.safetensors"
    export_checkpoint(folder, destination)
    return destination


def test_an_adapter_with_relative_bases_can_be_saved_elsewhere(place, tmp_path):
    shutil.copytree(place, tmp_path / "here")
    path = tmp_path / "here" / "adapter_all" / "config.json"
    config = json.loads(path.read_text())
    for base, folder in (("florence2", "florence2"), ("decoder", "stable-diffusion")):
        config["origin"][base]["source"] = f"../{folder}"
    path.write_text(json.dumps(config))
    VLVCaptioner.from_pretrained(path.parent).save_pretrained(tmp_path / "a" / "b" / "adapter", adapter=True)
    again = VLVCaptioner.from_pretrained(tmp_path / "a" / "b" / "adapter")
    assert again.origin["florence2"]["source"] == str(tmp_path / "here" / "florence2")
