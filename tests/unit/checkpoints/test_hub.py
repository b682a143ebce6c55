"""Saving for others: what goes to the hub, and weights in several files."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder, VLVCaptioner, VLVEncoder
from vlv.checkpoints.identity import CheckpointError


@pytest.fixture(scope="module")
def autoencoder(tiny_components):
    torch.manual_seed(0)
    return new_stage1(tiny_components)


@pytest.fixture(scope="module")
def captioner(autoencoder, tiny_components, tmp_path_factory):
    stage1 = tmp_path_factory.mktemp("stage1")
    autoencoder.save_pretrained(stage1)
    return new_captioner(stage1, tiny_components / "qwen")


class Hub:
    """Stands for the hub: repository -> file -> content, and what was asked for."""

    def __init__(self):
        self.files, self.asked = {}, []

    def __call__(self, token=None):
        self.asked.append(("token", token))
        return self

    def create_repo(self, repo_id, **options):
        self.asked.append(("repo", options))
        return f"https://hub/{repo_id}"

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.asked.append(("branch", branch))

    def upload_folder(self, repo_id, folder_path, commit_message, revision, create_pr):
        self.asked.append(("commit", commit_message, revision, create_pr))
        self.files[repo_id] = content(folder_path)
        return SimpleNamespace(pr_url=f"https://hub/{repo_id}/pr/1" if create_pr else None)

    def fetch(self, repo_id, **options):
        """As snapshot_download: writes the files below a folder named by the commit."""
        self.asked.append(("fetch", options.get("revision"), options.get("token")))
        if repo_id not in self.files:
            raise FileNotFoundError(f"no {repo_id}")
        folder = self.cache / repo_id / "snapshots" / "abc123"
        for name, data in self.files[repo_id].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return str(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    hub = Hub()
    hub.cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("vlv.checkpoints.hub.HfApi", hub)
    monkeypatch.setattr("vlv.checkpoints.pretrained.snapshot_download", hub.fetch)
    return hub


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def models(autoencoder, captioner):
    return {"autoencoder": autoencoder, "encoder": autoencoder.encoder, "captioner": captioner}


NAMES = ("autoencoder", "encoder", "captioner")


@pytest.mark.parametrize("name", NAMES)
def test_pushing_uploads_what_saving_writes(models, hub, name, tmp_path):
    model = models[name]
    assert model.push_to_hub("me/model") == "https://hub/me/model"
    model.save_pretrained(tmp_path)
    assert hub.files["me/model"] == content(tmp_path)
    assert {"config.json", "model.safetensors", "README.md"} <= hub.files["me/model"].keys()
    assert ("commit", f"Upload {type(model).__name__}", None, False) in hub.asked


@pytest.mark.parametrize("name", NAMES)
def test_pushing_goes_where_it_is_told(models, hub, name):
    model = models[name]
    told = {"commit_message": "Second try", "revision": "next", "private": True, "token": "t"}
    model.push_to_hub("me/model", **told)
    assert hub.asked == [
        ("token", "t"),
        ("repo", {"private": True, "exist_ok": True}),
        ("branch", "next"),
        ("commit", "Second try", "next", False),
    ]
    assert model.push_to_hub("me/model", create_pr=True) == "https://hub/me/model/pr/1"
    assert hub.asked[-1][-1] is True
    with pytest.raises(TypeError, match="commit_mesage"):
        model.push_to_hub("me/model", commit_mesage="a slip")


def test_transformers_way_to_the_hub_is_refused(models, tmp_path):
    for name in ("encoder", "captioner"):
        with pytest.raises(ValueError, match=r"call push_to_hub\(repo_id\)"):
            models[name].save_pretrained(tmp_path, push_to_hub=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_pushed_model_loads_by_its_id(models, hub, name):
    model = models[name]
    model.push_to_hub("me/model")
    again = type(model).from_pretrained("me/model")
    assert_same(model, again)
    assert again.loaded_from == hub.cache / "me/model/snapshots/abc123"
    type(model).from_pretrained("me/model", revision="next", token="t")
    assert hub.asked[-1] == ("fetch", "next", "t")
    with pytest.raises(CheckpointError, match="me/absent is neither a folder nor a hub model"):
        type(model).from_pretrained("me/absent")


@pytest.mark.parametrize("name", NAMES)
def test_auto_classes_know_every_model(models, name, tmp_path):
    model = models[name]
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model).config_class
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert_same(model, again)
    if name == "autoencoder":
        with pytest.raises(TypeError, match="takes no florence"):
            VLVAutoEncoder.from_pretrained(tmp_path, florence="a slip")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_saved_from_python_has_a_card(models, name, tmp_path):
    model = models[name]
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: vlv\n")
    name = type(model).__name__.replace("VLVForConditionalGeneration", "VLVCaptioner")  # the same by its short name
    assert f"{name}.from_pretrained" in card
    (tmp_path / "README.md").write_text("the run's card")
    (tmp_path / "config.yaml").write_text("lr: 1.0e-05\n")
    again = type(model).from_pretrained(tmp_path)
    again.save_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "copy"):
        assert (folder / "README.md").read_text() == "the run's card"
        assert (folder / "config.yaml").read_text() == "lr: 1.0e-05\n"


def test_bases_inside_a_checkpoint_go_along(autoencoder, tiny_components, hub, tmp_path):
    """As the import leaves them where a published file's frozen weights are not the base's."""
    autoencoder.save_pretrained(tmp_path / "one")
    shutil.copytree(tiny_components / "stable-diffusion", tmp_path / "one" / "bases" / "decoder")
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    config["bases"]["decoder"]["source"] = "bases/decoder"
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    VLVAutoEncoder.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    assert json.loads((tmp_path / "two" / "config.json").read_text())["bases"] == config["bases"]
    again = VLVAutoEncoder.from_pretrained(tmp_path / "two")
    again.push_to_hub("me/whole")
    assert "bases/decoder/unet/config.json" in hub.files["me/whole"]
    assert_same(again, VLVAutoEncoder.from_pretrained("me/whole"))
    again.save_pretrained(tmp_path / "two")
    assert_same(again, VLVAutoEncoder.from_pretrained(tmp_path / "two"))
    moved = VLVAutoEncoder.from_pretrained(tmp_path / "two", stable_diffusion=str(tiny_components / "stable-diffusion"))
    assert moved.bases["decoder"]["source"] == str(tiny_components / "stable-diffusion")


def test_a_model_is_pushed_in_shards(captioner, hub):
    captioner.push_to_hub("me/sharded", max_shard_size="500KB")
    assert "model.safetensors.index.json" in hub.files["me/sharded"]
    assert_same(captioner, VLVCaptioner.from_pretrained("me/sharded"))


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
