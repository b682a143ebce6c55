"""The import of published checkpoints: what is taken, what is refused, and that nothing of them runs."""

import gzip
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Florence2Config

from scripts.import_checkpoint import main
from tests.parity.conftest import ASSET, COPIES, SHARED
from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.models.bases import Bases
from vlv.models.conversion import captioners_stage1, import_stage1
from vlv.models.decoders import load_skeleton
from vlv.models.encoder import VLVEncoder, VLVEncoderConfig
from vlv.models.foreign import open_foreign
from vlv.models.importing import Skeleton, plan_import
from vlv.models.projector import Projector
from vlv.models.reference import place, published_names, recognise


@pytest.fixture
def call(bases):
    """The import command with the tiny bases."""

    def run(source, destination, *more, llm=True):
        arguments = [str(source), str(destination), "--decoder-resolution", "64", "--encoder-resolution", "128"]
        arguments += ["--florence2", str(bases / "florence2"), "--stable-diffusion", str(bases / "stable-diffusion")]
        main(arguments + (["--llm", str(bases / "qwen")] if llm else []) + list(more))

    return run


def refused(capsys, run):
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


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
    _, changed = import_stage1(open_foreign(stage1_file), tmp_path / "out", other, resolutions=(64, 128))
    assert changed == ["decoder", "florence2"]
    shutil.rmtree(tmp_path / "other")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    model = VLVAutoEncoder.from_pretrained(tmp_path / "moved")
    assert torch.equal(model.decoder.unet.conv_in.weight, published["unet.conv_in.weight"])
    tower = model.encoder.florence2.vision_tower.convs[0].conv.weight
    assert torch.equal(tower, published["model.vision_tower.convs.0.proj.weight"])


def test_stage1_part_of_a_captioner(stage2_file, imported_stage1, call, tmp_path):
    call(stage2_file, tmp_path / "out", "--stage1-only")
    expected, got = (load_file(path / "model.safetensors") for path in (imported_stage1, tmp_path / "out"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert len(captioners_stage1(open_foreign(stage2_file))) > 300


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
        open_foreign(folder)


def test_missing_and_unexpected_weights_are_refused_unless_named(stage1_file, call, tmp_path, capsys):
    weights = load_file(stage1_file)
    weights["extra.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "a.safetensors")
    line = refused(capsys, lambda: call(tmp_path / "a.safetensors", tmp_path / "out", llm=False))
    assert "1 weights are unexpected, the first is extra.weight" in line
    call(tmp_path / "a.safetensors", tmp_path / "out", "--allow", "extra.*", llm=False)
    del weights["extra.weight"], weights["text_encoder.text_model.final_layer_norm.bias"]
    save_file(weights, tmp_path / "b.safetensors")
    line = refused(capsys, lambda: call(tmp_path / "b.safetensors", tmp_path / "out2", llm=False))
    assert "1 weights are missing" in line
    assert "final_layer_norm.bias" in line


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


def test_untied_copies_are_refused(stage1_file, call, tmp_path, capsys):
    weights = load_file(stage1_file)
    weights[COPIES[0]] = weights[COPIES[0]] + 1
    save_file(weights, tmp_path / "a.safetensors")
    assert COPIES[0] in refused(capsys, lambda: call(tmp_path / "a.safetensors", tmp_path / "out", llm=False))


class Payload:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("touch was_run",)


def test_a_hostile_pickle_is_refused_and_does_not_run(call, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"query_embed": Payload()}, tmp_path / "evil.pt")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"query_embed": Payload()}))
    for name in ("evil.pt", "evil.bin"):
        line = refused(capsys, lambda name=name: call(tmp_path / name, tmp_path / "out", llm=False))
        assert "is refused" in line
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "kind",
    [
        "truncated pt",
        "truncated safetensors",
        "text",
        "empty folder",
        "absent",
        "zero",
        "zero own names",
        "zero one step",
    ],
)
def test_broken_sources_are_one_line(stage1_file, call, tmp_path, capsys, kind):
    source = tmp_path / ("a.safetensors" if "safetensors" in kind else "a.pt")
    if kind == "truncated pt":
        torch.save(load_file(stage1_file), source)
        source.write_bytes(source.read_bytes()[:5000])
    elif kind == "truncated safetensors":
        source.write_bytes(stage1_file.read_bytes()[:5000])
    elif kind == "text":
        source.write_text("hello")
    elif kind != "absent":
        source.mkdir()
    if kind.startswith("zero"):
        step = source / ("step_10" if "own names" in kind else "global_step10")
        step.mkdir()
        (step / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
        source = step if "one step" in kind else source
    line = refused(capsys, lambda: call(source, tmp_path / "out", llm=False))
    assert str(source) in line
    if kind.startswith("zero"):
        assert f"{tmp_path / 'a.pt' / 'zero_to_fp32.py'} {tmp_path / 'a.pt'} consolidated" in line
        assert "trust" in line


def test_bases_are_asked_for_by_name(stage2_file, tmp_path, capsys):
    line = refused(capsys, lambda: main([str(stage2_file), str(tmp_path / "out")]))
    assert "--stable-diffusion, --florence2, --llm" in line


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
    decoder = load_skeleton(REAL / "stable-diffusion-2-1-base", "text_encoder", 384)
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


def test_florence2_in_its_original_layout_becomes_a_native_folder(bases, tmp_path, capsys):
    from transformers import Florence2ForConditionalGeneration

    from vlv.models.pretrained import load_florence2, load_tokenizer

    main([str(bases / "florence2"), str(tmp_path / "native")])
    assert "Florence-2 in its original layout" in capsys.readouterr().out
    _, info = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "native", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pixels = torch.randn(1, 3, 128, 128)
    models = [load_florence2(folder, torch.float32).eval() for folder in (bases / "florence2", tmp_path / "native")]
    features = [model.get_image_features(pixels).pooler_output for model in models]
    assert torch.equal(*features)
    assert load_tokenizer(tmp_path / "native", "x")("a dog")["input_ids"]
