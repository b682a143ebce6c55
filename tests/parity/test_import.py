"""The import of published checkpoints: what is taken, and what becomes of it."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Florence2Config,
    Florence2ForConditionalGeneration,
)

from tests.parity.conftest import ASSET, SHARED
from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.pretrained import load_tokenizer
from vlv.cli.import_checkpoint import main
from vlv.decoders import DecoderSettings, build_decoder
from vlv.encoders.florence2 import VLVEncoder, VLVEncoderConfig, load_florence2
from vlv.models.projector import Projector
from vlv.published.bases import Bases
from vlv.published.export import published_state_dict
from vlv.published.import_checkpoint import captioners_stage1, import_stage1, import_stage2
from vlv.published.import_plan import Skeleton, plan_import
from vlv.published.key_mapping import place, published_names, recognise


@pytest.mark.parametrize("form", ["safetensors", "bin", "pt", "wrapped", "legacy", "folder"])
def test_stage1_in_every_form(published, stage1_file, imported_stage1, call, tmp_path, form, capsys):
    weights = load_file(stage1_file)
    source = tmp_path / f"stage1.{'bin' if form in ('bin', 'folder') else 'pt'}"
    if form == "safetensors":
        source = stage1_file
    elif form == "wrapped":
        torch.save({"model_state_dict": {f"module.{key}": value for key, value in weights.items()}}, source)
    elif form == "legacy":
        torch.save(weights, source, _use_new_zipfile_serialization=False)
    else:
        torch.save(weights, source)
    if form == "folder":
        (tmp_path / "folder").mkdir()
        source = source.rename(tmp_path / "folder" / "pytorch_model.bin").parent
    call(source, tmp_path / "out", llm=False)
    expected, got = (load_file(path / "model.safetensors") for path in (imported_stage1, tmp_path / "out"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    printed = capsys.readouterr().out
    assert "lm_head.weight: is tied to the embedding" in printed
    assert not (tmp_path / "out" / "bases").exists()


def test_the_trained_embedding_is_not_overwritten_by_lm_head(published, imported_stage1):
    model = VLVAutoEncoder.from_pretrained(imported_stage1)
    shared = model.encoder.florence2.language_model.shared.weight
    assert torch.equal(shared, published[SHARED])
    assert not torch.equal(shared, published["model.language_model.lm_head.weight"])


def test_frozen_weights_that_differ_become_bases_of_the_checkpoint(published, stage1_file, bases, tmp_path):
    shutil.copytree(bases, tmp_path / "other")
    for part, file in (("florence2", "model"), ("stable-diffusion/unet", "diffusion_pytorch_model")):
        path = tmp_path / "other" / part / f"{file}.safetensors"
        path.chmod(0o644)
        save_file({key: value + 1 for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    other = Bases.of(str(tmp_path / "other" / "florence2"), str(tmp_path / "other" / "stable-diffusion"))
    said = []
    import_stage1(open_state_dict(stage1_file), tmp_path / "out", other, resolutions=(64, 128), log=said.append)
    assert [line.split()[3] for line in said if "differ from the base" in line] == ["decoder", "florence2"]
    shutil.rmtree(tmp_path / "other")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    model = VLVAutoEncoder.from_pretrained(tmp_path / "moved")
    assert torch.equal(model.decoder.unet.conv_in.weight, published["unet.conv_in.weight"])
    tower = model.encoder.florence2.vision_tower.convs[0].conv.weight
    assert torch.equal(tower, published["model.vision_tower.convs.0.proj.weight"])


def test_a_stage1_file_without_unet_and_vae_takes_the_bases(stage1_file, imported_stage1, call, tmp_path, capsys):
    weights = {name: value for name, value in load_file(stage1_file).items() if not name.startswith(("unet.", "vae."))}
    save_file(weights, tmp_path / "a.safetensors")
    call(tmp_path / "a.safetensors", tmp_path / "out", llm=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "not in the file" in line] == [
        "unet: not in the file, the base's is used",
        "vae: not in the file, the base's is used",
    ]
    assert (tmp_path / "out" / "config.json").read_bytes() == (imported_stage1 / "config.json").read_bytes()


def test_rows_that_the_base_adds_are_told(bases, stage1_file, tmp_path):
    """A base with more embedding rows than the file, as the hub's native one has."""
    padded = tmp_path / "florence2"
    shutil.copytree(bases / "florence2", padded)
    weights, config = load_file(padded / "model.safetensors"), json.loads((padded / "config.json").read_text())
    rows = weights["language_model.model.shared.weight"].shape[0]
    for name in list(weights):
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight")):
            weights[name] = torch.cat([weights[name], torch.full((39, weights[name].shape[1]), 0.5)])
    (padded / "model.safetensors").unlink()
    save_file(weights, padded / "model.safetensors")
    config["vocab_size"] = config["text_config"]["vocab_size"] = rows + 39
    (padded / "config.json").unlink()
    (padded / "config.json").write_text(json.dumps(config))
    said = []
    grown = Bases.of(str(padded), str(bases / "stable-diffusion"))
    import_stage1(open_state_dict(stage1_file), tmp_path / "out", grown, resolutions=(64, 128), log=said.append)
    name = "encoder.florence2.language_model.shared.weight"
    assert f"    {name}: {rows:,} rows from the file, 39 from the base" in said
    value = load_file(tmp_path / "out" / "model.safetensors")[name]
    assert torch.equal(value[:rows], load_file(stage1_file)[SHARED])
    assert (value[rows:] == 0.5).all()


def test_imported_files_can_be_read_by_others(stage1_file, call, tmp_path):
    call(stage1_file, tmp_path / "out", llm=False)
    (tmp_path / "made").touch()
    usual = (tmp_path / "made").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {usual}


def test_stage1_part_of_a_captioner(stage2_file, imported_stage1, call, tmp_path):
    call(stage2_file, tmp_path / "out", "stage1_only=true")
    expected, got = (load_file(path / "model.safetensors") for path in (imported_stage1, tmp_path / "out"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert len(captioners_stage1(open_state_dict(stage2_file))) > 300


def test_a_sharded_captioner_folder(stage2_file, imported_stage2, call, tmp_path):
    weights = load_file(stage2_file)
    names, folder = sorted(weights), tmp_path / "hub"
    folder.mkdir()
    places = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    call(folder, tmp_path / "out")
    one, two = VLVCaptioner.from_pretrained(imported_stage2), VLVCaptioner.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    (folder / places[names[0]]).unlink()
    with pytest.raises(ValueError, match="is not complete"):
        open_state_dict(folder)


@pytest.mark.parametrize("form", ["beside the pieces", "shards"])
def test_a_consolidated_folder_is_read(stage1_file, imported_stage1, call, tmp_path, form):
    """What zero_to_fp32.py writes, beside DeepSpeed's own files or in several files with an index."""
    weights, source = load_file(stage1_file), tmp_path / "run"
    (source / "step_10").mkdir(parents=True)
    if form == "shards":
        places = {name: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, name in enumerate(sorted(weights))}
        for file in set(places.values()):
            torch.save({name: weights[name] for name in weights if places[name] == file}, source / file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        (source / "step_10" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
        torch.save(weights, source / "pytorch_model.bin")
    call(source, tmp_path / "out", llm=False)
    expected, got = (load_file(path / "model.safetensors") for path in (imported_stage1, tmp_path / "out"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def real_keys(name):
    return {key: tuple(shape) for key, shape in json.loads(gzip.decompress((ASSET / name).read_bytes())).items()}


def test_every_key_of_the_real_checkpoints_has_one_place_and_goes_back():
    for name, stage in (("stage1_checkpoint_keys.json.gz", "stage1"), ("stage2_model_pt_keys.json.gz", "stage2")):
        keys = real_keys(name)
        assert recognise(set(keys)) == stage
        placed = {key: place(key, stage) for key in keys}
        names = [placement.name for placement in placed.values() if placement.name]
        assert len(names) == len(set(names))
        back = {published for own in names for published in published_names(own, stage)}
        assert back <= keys.keys()
        assert {key for key in keys if key not in back} == {key for key in keys if "final_logits_bias" in key}


REAL = Path(__file__).resolve().parents[2] / "configs" / "components"


@pytest.fixture(scope="module")
def full_size():
    """Both stages at full size on the meta device, under the names of the whole models."""
    decoder = build_decoder(REAL / "stable-diffusion-2-1-base", DecoderSettings(resolution=384), device="meta")
    spaces = {space.name: space.width for space in decoder.conditioner.spaces}
    florence2 = Florence2Config.from_pretrained(REAL / "Florence-2-large").to_dict()
    stage1, stage2 = torch.nn.Module(), torch.nn.Module()
    with torch.device("meta"):
        encoder = VLVEncoder(VLVEncoderConfig(florence2_config=florence2, spaces=spaces, prompt_ids=[0, 2]))
        llm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(REAL / "Qwen2.5-3B"))
        stage2.mlp = Projector(decoder.conditioner.width, llm.config.hidden_size)
    stage1.encoder = stage2.encoder = encoder
    stage1.decoder = decoder
    stage2.conditioner, stage2.llm = decoder.conditioner, llm
    return {"stage1": stage1, "stage2": stage2}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_real_keys_and_shapes_fill_the_full_size_models(full_size, stage):
    """The hub's native Florence-2 has 51,328 embedding rows, the published checkpoints 51,289."""
    keys = real_keys("stage1_checkpoint_keys.json.gz" if stage == "stage1" else "stage2_model_pt_keys.json.gz")
    plan = plan_import(keys, stage, Skeleton.of(full_size[stage]))
    assert plan.misshapen == {}
    assert plan.missing == []
    assert plan.unexpected == []
    assert sorted(plan.dropped) == sorted(
        key for key in keys if ("lm_head" in key and "qwen" not in key) or "final_logits" in key
    )
    tied = ("shared", "embed_tokens", "lm_head")
    assert all(key.endswith(tuple(f"{name}.weight" for name in tied)) for key in plan.copies)
    assert len(plan.mapped) + len(plan.copies) + len(plan.dropped) == len(keys)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_an_export_has_exactly_the_real_keys_and_shapes(full_size, stage):
    """What the published strict loader asks for, `final_logits_bias` included."""
    keys = real_keys("stage1_checkpoint_keys.json.gz" if stage == "stage1" else "stage2_model_pt_keys.json.gz")
    state, skeleton = full_size[stage].state_dict(), Skeleton.of(full_size[stage])
    names = [*skeleton.shapes, *(name for name in skeleton.aliases if name.startswith("llm."))]
    weights = {name: state[name] for name in names}
    embedding = "encoder.florence2.language_model.shared.weight"
    weights[embedding] = weights[embedding][:51289]  # an import into the hub's padded model records that many
    written = published_state_dict(weights, stage)
    assert {name: tuple(value.shape) for name, value in written.items()} == keys


def test_florence2_in_its_original_layout_becomes_a_native_folder(bases, tmp_path, capsys):
    source = tmp_path / "original"
    shutil.copytree(bases / "florence2", source)
    (source / "preprocessor_config.json").unlink(missing_ok=True)
    remote = {"size": 128, "auto_map": {"AutoProcessor": "processing_florence2.Florence2Processor"}}
    (source / "preprocessor_config.json").write_text(json.dumps(remote))
    main([str(source), str(tmp_path / "native")])
    printed = capsys.readouterr().out
    assert "Florence-2 in its original layout" in printed
    assert "language_model.final_logits_bias: belongs to the language head" in printed
    assert "unexpected       0" in printed
    assert json.loads((tmp_path / "native" / "preprocessor_config.json").read_text()) == {"size": 128}
    _, info = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "native", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pixels = torch.randn(1, 3, 128, 128)
    models = [load_florence2(folder, torch.float32).eval() for folder in (bases / "florence2", tmp_path / "native")]
    features = [model.get_image_features(pixels).pooler_output for model in models]
    assert torch.equal(*features)
    assert load_tokenizer(tmp_path / "native", "x")("a dog")["input_ids"]


def test_a_captioner_larger_than_a_shard_is_written_in_several(
    stage2_file, component_bases, bases, monkeypatch, tmp_path, imported_stage2
):
    monkeypatch.setattr("vlv.published.bases._SHARD_BYTES", 400_000)
    import_stage2(open_state_dict(stage2_file), tmp_path, component_bases, str(bases / "qwen"), resolutions=(64, 128))
    files = sorted(path.name for path in tmp_path.glob("model*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    whole, sharded = (VLVCaptioner.from_pretrained(folder).state_dict() for folder in (imported_stage2, tmp_path))
    assert all(torch.equal(value, sharded[name]) for name, value in whole.items())
