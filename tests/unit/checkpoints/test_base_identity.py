"""The same diffusers model by its hub id, by `vlv download` and in a clone is the same base."""

import json
import shutil
from fnmatch import fnmatch

import pytest

from vlv.checkpoints import pretrained
from vlv.checkpoints.identity import (
    CheckpointError,
    component_hashes,
    component_identity,
    indexed_parts,
    require_same_component,
)


@pytest.fixture
def base(tiny_components, tmp_path):
    shutil.copytree(tiny_components / "stable-diffusion", tmp_path / "plain")
    return tmp_path / "plain"


def clone(base, folder):
    """The base as a hub's repository may hold it: with files that its index does not name, or in other formats."""
    shutil.copytree(base, folder)
    for name in ("vae_1_0", "safety_checker", "text_encoders"):
        shutil.copytree(base / "vae", folder / name)
    shutil.copy(base / "unet" / "diffusion_pytorch_model.safetensors", folder / "single.safetensors")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        shutil.copy(folder / part / f"{stem}.safetensors", folder / part / f"{stem}.fp16.safetensors")
        shutil.copy(folder / part / f"{stem}.safetensors", folder / part / f"{stem}.fp16-00001-of-00001.safetensors")
    unet = folder / "unet" / "diffusion_pytorch_model"
    shutil.copy(f"{unet}.safetensors", f"{unet}.non_ema.safetensors")
    return folder


def test_what_the_index_does_not_name_is_no_part_of_a_base(base, tmp_path):
    repository = clone(base, tmp_path / "repository")
    assert indexed_parts(repository) == ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]
    assert component_hashes(repository) == component_hashes(base)
    config = json.loads((repository / "vae" / "config.json").read_text())
    (repository / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    assert component_hashes(repository)["config_sha256"] != component_hashes(base)["config_sha256"]


def test_a_base_recorded_with_all_that_lay_in_its_folder_is_still_accepted(base, tmp_path):
    from vlv.checkpoints.identity import _former_hashes

    assert _former_hashes(base) == component_hashes(base)  # nothing else lies there, so nothing has changed
    repository = clone(base, tmp_path / "repository")
    former = {"source": str(repository), **_former_hashes(repository)}
    assert former["config_sha256"] != component_hashes(repository)["config_sha256"]
    require_same_component("decoder", repository, former, "stable_diffusion_model_path")
    with pytest.raises(CheckpointError, match="their configs differ"):
        require_same_component("decoder", base, former, "stable_diffusion_model_path")
    require_same_component("decoder", base, component_identity(repository, "x/y"), "stable_diffusion_model_path")


class Repository:
    """Stands for `snapshot_download` of one repository, with its patterns."""

    def __init__(self, files, snapshot):
        self.files, self.snapshot, self.fetched = files, snapshot, set()

    def __call__(self, hub_id, allow_patterns, ignore_patterns=()):
        for path in (path for path in self.files.rglob("*") if path.is_file()):
            name = path.relative_to(self.files).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns) and not any(
                fnmatch(name, pattern) for pattern in ignore_patterns
            ):
                (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.snapshot / name)
                self.fetched.add(name)
        return str(self.snapshot)


def test_a_hub_id_fetches_what_the_index_names(base, tmp_path, monkeypatch):
    repository = Repository(clone(base, tmp_path / "repository"), tmp_path / "snapshots" / "abc")
    monkeypatch.setattr(pretrained, "snapshot_download", repository)
    folder = pretrained.resolve_component("owner/model", "stable_diffusion_model_path")
    assert component_hashes(folder) == component_hashes(base)
    assert repository.fetched == {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}


def test_a_part_whose_weights_are_a_variant_alone_is_fetched_as_that(base, tmp_path, monkeypatch):
    files = shutil.copytree(base, tmp_path / "repository")
    weights = files / "unet" / "diffusion_pytorch_model"
    shutil.move(f"{weights}.safetensors", f"{weights}.fp16.safetensors")
    repository = Repository(files, tmp_path / "snapshots" / "abc")
    monkeypatch.setattr(pretrained, "snapshot_download", repository)
    pretrained.resolve_component("owner/model", "stable_diffusion_model_path")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in repository.fetched


def test_a_model_without_an_index_is_fetched_as_before(tiny_components, tmp_path, monkeypatch):
    repository = Repository(tiny_components / "qwen", tmp_path / "snapshots" / "abc")
    monkeypatch.setattr(pretrained, "snapshot_download", repository)
    folder = pretrained.resolve_component("owner/model", "qwen_model")
    assert component_hashes(folder) == component_hashes(tiny_components / "qwen")
