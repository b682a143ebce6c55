"""What is loaded holds exactly the model's weights: nothing is drawn at random in silence."""

import json
import pickle
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder, VLVCaptioner, VLVEncoder
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.pretrained import load_language_model, load_whole
from vlv.encoders.florence2 import load_florence2


@pytest.fixture(scope="module")
def saved(tiny_components, tmp_path_factory):
    """A stage 1, its encoder alone, and a captioner, beside the components."""
    folder = tmp_path_factory.mktemp("saved")
    shutil.copytree(tiny_components, folder, dirs_exist_ok=True)
    autoencoder = new_stage1(folder)
    autoencoder.save_pretrained(folder / "stage1")
    autoencoder.encoder.save_pretrained(folder / "encoder")
    new_captioner(folder / "stage1", folder / "qwen").save_pretrained(folder / "captioner")
    return folder


def torch_dtype(kind):
    return lambda folder: load_whole(kind.from_pretrained, folder, torch_dtype=torch.float32)


LOADERS = {
    "captioner": VLVCaptioner.from_pretrained,
    "encoder": VLVEncoder.from_pretrained,
    "stage1": VLVAutoEncoder.from_pretrained,
    "florence2": lambda folder: load_florence2(folder, torch.float32),
    "qwen": lambda folder: load_language_model(folder, torch.float32),
    "stable-diffusion/unet": torch_dtype(UNet2DConditionModel),
    "stable-diffusion/vae": torch_dtype(AutoencoderKL),
    "stable-diffusion/text_encoder": lambda folder: load_whole(CLIPTextModel.from_pretrained, folder),
}
# A weight of each that the libraries would draw at random.
LACKING = {
    "captioner": "mlp.layers.0.weight",
    "encoder": "query_embed",
    "stage1": "encoder.query_embed",
    "florence2": "multi_modal_projector.image_proj_norm.weight",
    "qwen": "model.norm.weight",
    "stable-diffusion/unet": "conv_in.weight",
    "stable-diffusion/vae": "encoder.conv_in.weight",
    "stable-diffusion/text_encoder": "final_layer_norm.weight",
}


@pytest.fixture
def spoiled(saved, tmp_path):
    """Copy a folder and change its weights."""

    def spoil(name, change):
        folder = tmp_path / "copy"
        shutil.copytree(saved / name, folder)
        file = next(folder.glob("*model.safetensors"))
        weights = load_file(file)
        change(weights, next(key for key in weights if key.endswith(LACKING[name])))
        file.unlink()
        save_file(weights, file, metadata={"format": "pt"})
        return folder, file

    return spoil


def refused(load, folder):
    with pytest.raises(CheckpointError) as failure:
        load(folder)
    assert str(folder) in str(failure.value)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("name", LOADERS)
def test_whole_folders_load(saved, name, capfd):
    LOADERS[name](saved / name)
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_weight_is_refused(spoiled, name, capfd):
    folder, _ = spoiled(name, lambda weights, key: weights.pop(key))
    line = refused(LOADERS[name], folder)
    assert "1 weights are missing" in line
    assert LACKING[name] in line
    printed = capfd.readouterr().err
    assert "LOAD REPORT" not in printed
    assert "newly initialized" not in printed


@pytest.mark.parametrize("name", LOADERS)
def test_an_unexpected_weight_is_refused(spoiled, name):
    folder, _ = spoiled(name, lambda weights, _: weights.update({"extra.weight": torch.zeros(1)}))
    assert "1 weights are unexpected, the first is extra.weight" in refused(LOADERS[name], folder)


@pytest.mark.parametrize("name", LOADERS)
def test_another_shape_is_refused(spoiled, name):
    folder, _ = spoiled(name, lambda weights, key: weights.update({key: torch.zeros(3, 2)}))
    assert f"{LACKING[name]} has shape (3, 2)" in refused(LOADERS[name], folder)


@pytest.mark.parametrize("name", LOADERS)
def test_a_truncated_file_is_named(spoiled, name):
    folder, file = spoiled(name, lambda *_: None)
    file.write_bytes(file.read_bytes()[:-100])
    assert "damaged or not complete" in refused(LOADERS[name], folder)


def test_a_tied_head_is_not_missing(saved):
    """The files hold each tied weight once."""
    for name, head, embedding in (
        ("captioner", "llm.lm_head.weight", "llm.model.embed_tokens.weight"),
        ("qwen", "lm_head.weight", "model.embed_tokens.weight"),
    ):
        assert head not in load_file(saved / name / "model.safetensors")
        state = LOADERS[name](saved / name).state_dict()
        assert torch.equal(state[head], state[embedding])


def test_another_models_folder_is_no_encoder(saved):
    assert "is a model of type qwen2; an encoder is needed" in refused(VLVEncoder.from_pretrained, saved / "qwen")
    assert "is a captioner (stage 2" in refused(VLVEncoder.from_pretrained, saved / "captioner")
    assert "is an encoder alone" in refused(VLVCaptioner.from_pretrained, saved / "encoder")


def test_another_models_folder_is_no_language_model(saved):
    line = refused(lambda folder: load_language_model(folder, torch.float32), saved / "florence2")
    assert "is a model of type florence2: give a causal language model" in line


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("captioner", ["conditioner"], "conditioner.family"),
        ("captioner", ["encoder_config", "llm_config"], "encoder_config, llm_config"),
        ("stage1", ["bases"], "bases.florence2, bases.decoder"),
        ("encoder", ["spaces"], "spaces"),
    ],
)
def test_a_config_that_lacks_fields_is_named(saved, tmp_path, name, fields, said):
    folder = shutil.copytree(saved / name, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in fields}))
    assert f"config.json is not complete: it lacks {said}" in refused(LOADERS[name], folder)


def test_a_captioner_of_no_language_model_is_named(saved, tmp_path):
    folder = shutil.copytree(saved / "captioner", tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "llm_config": {"model_type": "florence2"}}))
    with pytest.raises(CheckpointError, match="llm_config is a model of type florence2"):
        VLVCaptioner.from_pretrained(folder)


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("florence2", ["tokenizer.json"]),
        ("stable-diffusion", ["tokenizer/tokenizer.json"]),
        ("qwen", ["tokenizer.json"]),
        ("captioner", ["tokenizer.json"]),
    ],
)
def test_a_tokenizer_without_its_vocabulary_is_refused(saved, tmp_path, part, files):
    """transformers would make one of the special tokens alone: every prompt and caption would be empty."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for name in [*files, "vocab.json"]:
        (tmp_path / part / name).unlink(missing_ok=True)
        (tmp_path / part / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="holds no vocabulary"):
        load_part(tmp_path, part)


def load_part(folder, part):
    if part == "captioner":
        return VLVCaptioner.from_pretrained(folder / part)
    if part == "qwen":
        return build_captioner(folder)
    return new_stage1(folder)


def build_captioner(folder, max_caption_tokens=32):
    return new_captioner(folder / "stage1", folder / "qwen", max_caption_tokens=max_caption_tokens)


def test_captions_longer_than_the_language_model_are_refused(saved):
    positions = load_language_model(saved / "qwen", torch.float32).config.max_position_embeddings
    with pytest.raises(CheckpointError, match=f"give at most {positions - 13}"):
        build_captioner(saved, max_caption_tokens=positions)
    build_captioner(saved, max_caption_tokens=positions - 13)


def test_a_tokenizer_of_another_language_model_is_refused(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = json.loads((saved / "qwen" / "config.json").read_text())
    tokenizer = json.loads((tmp_path / "qwen" / "tokenizer.json").read_text())
    next_id = config["vocab_size"]
    tokenizer["model"]["vocab"] |= {f"zz{n}": next_id + n for n in range(50)}
    (tmp_path / "qwen" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="they are of two models"):
        build_captioner(tmp_path)


class Payload:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("touch was_run",)


PICKLED = [name for name in LOADERS if name not in ("captioner", "encoder", "stage1")]


@pytest.mark.parametrize("form", ["zip", "plain"])
@pytest.mark.parametrize("name", PICKLED)
def test_a_hostile_pickle_among_the_bases_is_refused_in_one_line(saved, tmp_path, monkeypatch, name, form):
    """Ours are safetensors alone; those of others may come as *.bin, each library with a text of its own."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(saved / name, tmp_path / "copy")
    file = next(folder.glob("*model.safetensors"))
    evil = file.with_name("diffusion_pytorch_model.bin" if file.name.startswith("diffusion") else "pytorch_model.bin")
    if form == "zip":
        torch.save({**load_file(file), "more": Payload()}, evil)
    else:
        evil.write_bytes(pickle.dumps({"more": Payload()}))
    file.unlink()
    line = refused(LOADERS[name], folder)
    assert f"{evil} is refused: it is a pickle that needs more than tensors" in line
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", PICKLED)
def test_a_cut_pickle_among_the_bases_is_named(saved, tmp_path, name):
    folder = shutil.copytree(saved / name, tmp_path / "copy")
    file = next(folder.glob("*model.safetensors"))
    cut = file.with_name("diffusion_pytorch_model.bin" if file.name.startswith("diffusion") else "pytorch_model.bin")
    torch.save(load_file(file), cut)
    LOADERS[name](folder)
    file.unlink()
    cut.write_bytes(cut.read_bytes()[:3000])
    assert f"{cut} is damaged, not complete" in refused(LOADERS[name], folder)


def test_a_hostile_pickle_of_an_original_florence2_is_refused(saved, tmp_path, monkeypatch):
    from vlv.encoders.florence2_layout import original_config

    monkeypatch.chdir(tmp_path)
    config = load_florence2(saved / "florence2", torch.float32).config
    (tmp_path / "config.json").write_text(json.dumps(original_config(config)))
    torch.save({"more": Payload()}, tmp_path / "pytorch_model.bin")
    assert "is refused: it is a pickle" in refused(lambda folder: load_florence2(folder, torch.float32), tmp_path)
    assert not (tmp_path / "was_run").exists()
