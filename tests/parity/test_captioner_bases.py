"""What an imported captioner knows of its frozen bases, and which stage-1 models may draw its pictures."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.identity import CheckpointError, read_json
from vlv.checkpoints.inspection import describe_checkpoint
from vlv.models.from_stage1 import preview_autoencoder
from vlv.published.bases import Bases
from vlv.published.import_checkpoint import import_stage1, import_stage2

WEIGHTS = {"florence2": "florence2/model", "decoder": "stable-diffusion/text_encoder/model"}


@pytest.fixture
def import_on(stage2_file, bases, tmp_path):
    """Import the captioner on changed bases; gives the folder and what was said."""

    def run(change):
        shutil.copytree(bases, tmp_path / "other")
        change(tmp_path / "other")
        other = Bases.of(str(tmp_path / "other" / "florence2"), str(tmp_path / "other" / "stable-diffusion"))
        folder, said = tmp_path / "captioner", []
        qwen = str(bases / "qwen")
        import_stage2(open_state_dict(stage2_file), folder, other, qwen, resolutions=(64, 128), log=said.append)
        return folder, [line for line in said if line.startswith("frozen")]

    return run


def shift(path, names):
    """Add one to some weights of a file."""
    weights = load_file(path)
    path.unlink()
    save_file({name: value + 1 if names in name else value for name, value in weights.items()}, path)


@pytest.mark.parametrize(("component", "names"), [("florence2", "vision_tower.convs.0"), ("decoder", "layers.1")])
def test_a_base_that_the_captioner_was_not_trained_on_is_not_named(import_on, component, names, imported_stage2):
    folder, said = import_on(lambda other: shift(other / f"{WEIGHTS[component]}.safetensors", names))
    assert said == [
        f"frozen weights of {component} differ from the base: the captioner keeps its own, and names no base"
    ]
    facts = describe_checkpoint(folder)
    assert facts[f"base {component}"].startswith("not known")
    assert "not known" not in facts[f"base {'decoder' if component == 'florence2' else 'florence2'}"]
    expected, got = (load_file(path / "model.safetensors") for path in (imported_stage2, folder))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_what_stage_2_trained_may_differ_from_the_base(import_on):
    _, said = import_on(
        lambda other: shift(other / "florence2" / "model.safetensors", "language_model.model.encoder.layers")
    )
    assert said == []


def test_weights_that_are_not_compared_need_not_be_there(import_on):
    def change(other):
        for path in [
            *other.glob("stable-diffusion/unet/*.safetensors"),
            *other.glob("stable-diffusion/vae/*.safetensors"),
        ]:
            path.unlink()

    assert import_on(change)[1] == []


def test_bases_without_weights_give_their_configs_alone(import_on):
    def change(other):
        for path in other.rglob("*.safetensors"):
            path.unlink()

    folder, said = import_on(change)
    assert [line.split(":")[0] for line in said] == [f"frozen weights of {part} are not compared" for part in WEIGHTS]
    assert set(read_json(folder / "config.json")["origin"]["florence2"]) == {"source", "config_sha256"}


def test_an_imported_captioner_says_how_it_generates(imported_stage2):
    settings = GenerationConfig.from_pretrained(imported_stage2)
    assert (settings.num_beams, settings.max_new_tokens) == (4, 301)
    assert settings.eos_token_id == read_json(imported_stage2 / "config.json")["eos_token_id"]


def test_the_preview_needs_a_stage_1_on_the_captioners_bases(
    imported_stage1, imported_stage2, stage1_file, bases, tmp_path
):
    assert preview_autoencoder(imported_stage2, str(imported_stage1)).decoder.unet is not None
    shutil.copytree(bases, tmp_path / "bases")
    shift(tmp_path / "bases" / "stable-diffusion/text_encoder/model.safetensors", "layers.1")
    weights = {name: value for name, value in load_file(stage1_file).items() if not name.startswith("text_encoder.")}
    save_file(weights, tmp_path / "a.safetensors")
    other = Bases.of(str(tmp_path / "bases" / "florence2"), str(tmp_path / "bases" / "stable-diffusion"))
    import_stage1(open_state_dict(tmp_path / "a.safetensors"), tmp_path / "stage1", other, resolutions=(64, 128))
    with pytest.raises(CheckpointError, match=r"is not the stage-1 model that .* came from: conditioner.text"):
        preview_autoencoder(imported_stage2, str(tmp_path / "stage1"))
