"""Saving for others: what goes to the hub, and weights in several files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlv import VLVAutoEncoder, VLVCaptioner, VLVEncoder
from vlv.models.stage2 import captioner_from_stage1


@pytest.fixture(scope="module")
def autoencoder(tiny_components):
    torch.manual_seed(0)
    return VLVAutoEncoder.from_components(
        str(tiny_components / "stable-diffusion"),
        str(tiny_components / "florence2"),
        decoder_resolution=64,
        encoder_resolution=128,
        num_queries=12,
    )


@pytest.fixture(scope="module")
def captioner(autoencoder, tiny_components, tmp_path_factory):
    stage1 = tmp_path_factory.mktemp("stage1")
    autoencoder.save_pretrained(stage1)
    return captioner_from_stage1(
        stage1, str(tiny_components / "qwen"), trained=["mlp"], max_caption_tokens=32, draws_with_own_weights=False
    )


@pytest.fixture
def hub(monkeypatch):
    """Stands for the hub: repository -> file -> content."""
    uploaded = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path, **_):
            uploaded[repo_id] = content(folder_path)

    monkeypatch.setattr("vlv.models.hub.HfApi", Api)
    return uploaded


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("name", ["autoencoder", "encoder", "captioner"])
def test_pushing_uploads_what_saving_writes(autoencoder, captioner, hub, name, tmp_path):
    model = {"autoencoder": autoencoder, "encoder": autoencoder.encoder, "captioner": captioner}[name]
    assert model.push_to_hub("me/model") == "https://hub/me/model"
    model.save_pretrained(tmp_path)
    assert hub["me/model"] == content(tmp_path)
    assert {"config.json", "model.safetensors"} <= hub["me/model"].keys()


def test_pushing_a_finished_run_brings_its_card_and_recipe(captioner, hub, tmp_path):
    captioner.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("the run's card")
    (tmp_path / "config.yaml").write_text("lr: 1.0e-05\n")
    VLVCaptioner.from_pretrained(tmp_path).push_to_hub("me/finished")
    assert hub["me/finished"].keys() == content(tmp_path).keys()
    assert hub["me/finished"]["README.md"] == b"the run's card"


def test_a_pushed_folder_loads(captioner, hub, tmp_path):
    captioner.push_to_hub("me/sharded", max_shard_size="500KB")
    assert "model.safetensors.index.json" in hub["me/sharded"]
    for name, data in hub["me/sharded"].items():
        (tmp_path / name).write_bytes(data)
    assert_same(captioner, VLVCaptioner.from_pretrained(tmp_path))


def test_sharded_folders_load_the_same(captioner, tmp_path):
    for model, kind in ((captioner, VLVCaptioner), (captioner.encoder, VLVEncoder)):
        folder = tmp_path / kind.__name__
        model.save_pretrained(folder, max_shard_size="500KB")
        shards = sorted(folder.glob("model-*.safetensors"))
        assert len(shards) > 1
        places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert {name for shard in shards for name in load_file(shard)} == places.keys()
        assert_same(model, kind.from_pretrained(folder))


def assert_same(model, again):
    for (name, value), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(value, other), name
