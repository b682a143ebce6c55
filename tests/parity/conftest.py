"""The published implementation's weights, laid out on disk as its users have them, and imported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.pretrained import load_tokenizer
from vlv.cli.import_checkpoint import main
from vlv.encoders.florence2 import load_florence2
from vlv.published.import_checkpoint import Bases, import_stage1, import_stage2

ASSET = Path(__file__).resolve().parents[1] / "assets" / "parity"
SHARED = "model.language_model.model.shared.weight"
HEAD = "model.language_model.lm_head.weight"
COPIES = [SHARED.replace("shared", f"{part}.embed_tokens") for part in ("encoder", "decoder")]


@pytest.fixture(scope="session")
def published():
    """The published stage-1 state dict, with the tied copies that the asset leaves out.

    Nothing reads `lm_head`; it differs from `shared` on purpose, so that a test sees it taken for the embedding.
    """
    weights = load_file(ASSET / "weights_decoder.safetensors") | load_file(ASSET / "weights_encoder.safetensors")
    weights[HEAD] = weights[SHARED].flip(0)
    return weights | {name: weights[SHARED].clone() for name in COPIES}


@pytest.fixture(scope="session")
def stage1_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "stage1.safetensors"
    save_file({key: value for key, value in published.items() if not key.startswith(("qwen2_model", "mlp"))}, path)
    return path


@pytest.fixture(scope="session")
def stage2_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    weights = {key: value for key, value in published.items() if key.startswith(("qwen2_model", "mlp"))}
    weights["qwen2_model.lm_head.weight"] = weights["qwen2_model.model.embed_tokens.weight"].clone()
    for key, value in published.items():
        if key.split(".")[0] in ("model", "text_encoder", "language_proj", "query_embed"):
            weights[f"VLV_model.{key}"] = value
    save_file(weights, path)
    return path


@pytest.fixture(scope="session")
def bases(published, tmp_path_factory):
    """Component folders in the hub's layouts, with the same frozen weights."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("florence2", "stable-diffusion", "qwen"):
        shutil.copytree(ASSET / name, folder / name)

    def part(prefix):
        return {key.removeprefix(prefix): value for key, value in published.items() if key.startswith(prefix)}

    save_file(part("model."), folder / "florence2" / "model.safetensors", metadata={"format": "pt"})
    save_file(part("qwen2_model."), folder / "qwen" / "model.safetensors", metadata={"format": "pt"})
    for name, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        save_file(
            part(f"{name}."), folder / "stable-diffusion" / name / f"{file}.safetensors", metadata={"format": "pt"}
        )
    return folder


@pytest.fixture(scope="session")
def component_bases(bases):
    return Bases.of(str(bases / "florence2"), str(bases / "stable-diffusion"))


@pytest.fixture(scope="session")
def padded_florence2(bases, tmp_path_factory):
    """The base in the native layout with more embedding rows than the published checkpoints have, as on the hub."""
    folder = tmp_path_factory.mktemp("padded") / "florence2"
    load_florence2(bases / "florence2", torch.float32).save_pretrained(folder)
    load_tokenizer(bases / "florence2", "florence2").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    name = "language_model.shared.weight"
    rows = torch.full((39, weights[name].shape[1]), 7.0)
    weights[name] = torch.cat([weights[name], rows])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = weights[name].shape[0]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def imported_stage1(stage1_file, component_bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "stage1"
    import_stage1(open_state_dict(stage1_file), folder, component_bases, resolutions=(64, 128))
    return folder


@pytest.fixture(scope="session")
def imported_stage2(stage2_file, component_bases, bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "stage2"
    import_stage2(open_state_dict(stage2_file), folder, component_bases, str(bases / "qwen"), resolutions=(64, 128))
    return folder


@pytest.fixture
def call(bases):
    """The import command with the tiny bases."""

    def run(source, destination, *more, llm=True):
        arguments = [str(source), str(destination), "decoder_resolution=64", "encoder_resolution=128"]
        arguments += [f"florence2={bases / 'florence2'}", f"stable_diffusion={bases / 'stable-diffusion'}"]
        main(arguments + ([f"llm={bases / 'qwen'}"] if llm else []) + list(more))

    return run


def refused(capsys, run):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="session")
def values1():
    return load_file(ASSET / "values_stage1.safetensors")


@pytest.fixture(scope="session")
def values2():
    return load_file(ASSET / "values_stage2.safetensors")


@pytest.fixture(scope="session")
def more():
    return load_file(ASSET / "values_more.safetensors")


@pytest.fixture(scope="session")
def facts():
    return json.loads((ASSET / "values.json").read_text())
