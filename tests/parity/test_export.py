"""Ours -> published -> ours is equal to the last byte; the other way all but the dropped tensors."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.conftest import HEAD, SHARED
from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.identity import read_json
from vlv.cli.export_checkpoint import main
from vlv.decoders import DecoderSettings
from vlv.encoders import EncoderSettings
from vlv.published.bases import Bases
from vlv.published.import_checkpoint import import_stage1, import_stage2
from vlv.published.import_plan import Skeleton, plan_import

EMBEDDING = "encoder.florence2.language_model.shared.weight"


def tensors(folder):
    return {name: value for path in folder.glob("model*.safetensors") for name, value in load_file(path).items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_stage1_round_trips(imported_stage1, stage1_file, component_bases, tmp_path, suffix, capsys):
    exported = tmp_path / f"stage1.{suffix}"
    main([str(imported_stage1), str(exported)])
    assert "stage1" in capsys.readouterr().out
    source = open_state_dict(exported)
    original = load_file(stage1_file)
    assert set(source.shapes) == original.keys()
    for name in source:
        expected = original[SHARED] if name == HEAD else original[name]
        assert torch.equal(source[name], expected), name
    import_stage1(source, tmp_path / "again", component_bases, resolutions=(64, 128))
    assert equal(tensors(tmp_path / "again"), tensors(imported_stage1))
    assert read_json(tmp_path / "again" / "config.json") == read_json(imported_stage1 / "config.json")


def test_stage2_round_trips(imported_stage2, stage2_file, component_bases, bases, tmp_path):
    exported = tmp_path / "model.safetensors"
    main([str(imported_stage2), str(exported)])
    source, original = open_state_dict(exported), load_file(stage2_file)
    assert set(source.shapes) == original.keys()
    for name in source:
        expected = original[f"VLV_model.{SHARED}"] if name == f"VLV_model.{HEAD}" else original[name]
        assert torch.equal(source[name], expected), name
    import_stage2(source, tmp_path / "again", component_bases, str(bases / "qwen"), resolutions=(64, 128))
    assert equal(tensors(tmp_path / "again"), tensors(imported_stage2))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_padded_base_exports_the_published_rows(
    stage, stage1_file, stage2_file, padded_florence2, component_bases, bases, tmp_path
):
    """The hub's native Florence-2 has more embedding rows than the published checkpoints."""
    padded = Bases.of(str(padded_florence2), str(bases / "stable-diffusion"))
    published = stage1_file if stage == "stage1" else stage2_file

    def take(source, name, on):
        if stage == "stage1":
            import_stage1(open_state_dict(source), tmp_path / name, on, resolutions=(64, 128))
        else:
            import_stage2(open_state_dict(source), tmp_path / name, on, str(bases / "qwen"), resolutions=(64, 128))
        return tensors(tmp_path / name)

    ours, original = take(published, "ours", padded), load_file(published)
    prefix = "" if stage == "stage1" else "VLV_model."
    rows = original[prefix + SHARED].shape[0]
    embedding = ours[EMBEDDING]
    assert embedding.shape[0] == rows + 39
    assert torch.equal(embedding[:rows], original[prefix + SHARED])
    assert torch.equal(embedding[rows:], torch.full_like(embedding[rows:], 7.0)), "rows beyond are the base's"
    kind = VLVAutoEncoder if stage == "stage1" else VLVCaptioner
    kind.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "saved")
    for name in ("ours", "saved"):
        exported = tmp_path / f"{name}.safetensors"
        main([str(tmp_path / name), str(exported)])
        back = load_file(exported)
        assert back.keys() == original.keys()
        for key, value in back.items():
            assert torch.equal(value, original[prefix + SHARED if key == prefix + HEAD else key]), key
    assert equal(take(exported, "again", padded), ours)
    unpadded = take(exported, "unpadded", component_bases)
    assert unpadded[EMBEDDING].shape[0] == rows


def spoil(folder, copy, change):
    shutil.copytree(folder, copy)
    weights = tensors(copy)
    change(weights)
    for path in copy.glob("model*.safetensors*"):
        path.unlink()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})


LACKING = ("query_embed", "language_model.decoder", "language_proj")


@pytest.mark.parametrize(
    ("stage", "lacking"),
    [
        *((stage, part) for stage in ("stage1", "stage2") for part in LACKING),
        ("stage2", "mlp.layers"),
        ("stage2", "vision"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(stage, lacking, imported_stage1, imported_stage2, tmp_path, capsys):
    removed = []

    def remove(weights):
        removed.extend(name for name in sorted(weights) if lacking in name)
        for name in removed:
            del weights[name]

    spoil(imported_stage1 if stage == "stage1" else imported_stage2, tmp_path / "copy", remove)
    line = refused(capsys, tmp_path / "copy", tmp_path / "out.safetensors")
    assert f"{len(removed)} weights are missing, the first is {removed[0]}" in line
    assert not (tmp_path / "out.safetensors").exists()


def test_other_weights_are_refused(imported_stage1, imported_stage2, tmp_path, capsys):
    spoil(imported_stage1, tmp_path / "a", lambda weights: weights.update(extra=torch.zeros(1)))
    assert "1 weights are unexpected, the first is extra" in refused(capsys, tmp_path / "a", tmp_path / "out.pt")
    spoil(imported_stage2, tmp_path / "b", lambda weights: weights.update({EMBEDDING: torch.zeros(2, 64)}))
    assert f"{EMBEDDING} has shape (2, 64)" in refused(capsys, tmp_path / "b", tmp_path / "out.pt")
    for model_type in ("vlv_autoencoder", "vlv_captioner"):
        (tmp_path / "b" / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert "config.json is not complete: it lacks" in refused(capsys, tmp_path / "b", tmp_path / "out.pt")


def test_what_the_layout_does_not_hold_is_said(imported_stage1, imported_stage2, bases, tmp_path, capsys):
    def said(folder):
        main([str(folder), str(tmp_path / "out.safetensors")])
        lines = capsys.readouterr().out.splitlines()
        return [line.removeprefix("not in the layout: ") for line in lines if line.startswith("not in the layout")]

    resolutions = "decoder_resolution=64, encoder_resolution=128: an import needs them"
    assert [line[: len(resolutions)] for line in said(imported_stage1)] == [resolutions]
    assert said(imported_stage2)[1].startswith("prompt_ids, tokenizer, origin")
    VLVAutoEncoder.from_components(
        str(bases / "stable-diffusion"),
        str(bases / "florence2"),
        DecoderSettings(resolution=64),
        EncoderSettings(resolution=128, trained="all", view_from_original=True, prompt_ids=(0, 5, 2)),
    ).save_pretrained(tmp_path / "ours")
    starts = ["decoder_resolution", "encoder_view_from_original=true", "trained=all", "prompt_ids=[0, 5, 2]"]
    lines = said(tmp_path / "ours")
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


@pytest.mark.parametrize("trained", ["all", "decoder_only"])
def test_every_choice_of_what_trains_exports(trained, bases, tmp_path):
    model = VLVAutoEncoder.from_components(
        str(bases / "stable-diffusion"),
        str(bases / "florence2"),
        DecoderSettings(resolution=64),
        EncoderSettings(resolution=128, trained=trained),
    )
    with torch.no_grad():
        for value in model.encoder.parameters():
            if value.requires_grad:
                value.add_(1)
    model.save_pretrained(tmp_path / "ours")
    main([str(tmp_path / "ours"), str(tmp_path / "out.safetensors")])
    plan = plan_import(open_state_dict(tmp_path / "out.safetensors").shapes, "stage1", Skeleton.of(model))
    for name, value in model.named_parameters():
        assert torch.equal(plan.tensor(open_state_dict(tmp_path / "out.safetensors"), name), value), name


def refused(capsys, source, destination):
    with pytest.raises(SystemExit) as stopped:
        main([str(source), str(destination)])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_bad_calls_are_one_line(imported_stage1, tmp_path, capsys):
    for source, destination, words in (
        (tmp_path, tmp_path / "a.pt", "so it is no VLV checkpoint"),
        (imported_stage1, tmp_path / "a.txt", "give a file that ends in"),
    ):
        assert words in refused(capsys, source, destination)
