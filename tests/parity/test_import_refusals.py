"""What the import refuses, each in one line and with nothing written, and that nothing of a source runs."""

import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.conftest import COPIES, refused
from vlv.cli.import_checkpoint import main


def test_missing_and_unexpected_weights_are_refused_unless_named(stage1_file, call, tmp_path, capsys):
    weights = load_file(stage1_file)
    weights["extra.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "a.safetensors")
    line = refused(capsys, lambda: call(tmp_path / "a.safetensors", tmp_path / "out", llm=False))
    assert "1 weights are unexpected, the first is extra.weight" in line
    call(tmp_path / "a.safetensors", tmp_path / "out", "allow=extra.*", llm=False)
    del weights["extra.weight"], weights["text_encoder.text_model.final_layer_norm.bias"]
    save_file(weights, tmp_path / "b.safetensors")
    line = refused(capsys, lambda: call(tmp_path / "b.safetensors", tmp_path / "out2", llm=False))
    assert "1 weights are missing" in line
    assert "final_layer_norm.bias" in line
    assert not (tmp_path / "out2").exists()


def test_the_table_stands_before_the_refusal_with_every_name(stage1_file, call, tmp_path, capsys):
    weights = load_file(stage1_file)
    lost = [name for name in weights if name.startswith("model.language_model.model.encoder.layers.0.")]
    lost += [name for name in weights if name.startswith("model.vision_tower.blocks.0.")]
    assert len(lost) > 20
    renamed = {f"odd.{name}" if name in lost else name: value for name, value in weights.items()}
    save_file(renamed, tmp_path / "a.safetensors")
    with pytest.raises(SystemExit):
        call(tmp_path / "a.safetensors", tmp_path / "out", llm=False)
    lines = capsys.readouterr().out.splitlines()
    assert f"missing     {len(lost):>6}" in lines
    assert [f"    odd.{name}" in lines for name in lost] == [True] * len(lost)


def test_a_part_that_lacks_some_weights_is_refused(stage1_file, call, tmp_path, capsys):
    weights = load_file(stage1_file)
    names = sorted(name for name in weights if name.startswith("vae."))
    for name in names[::2]:
        del weights[name]
    save_file(
        {name: value for name, value in weights.items() if not name.startswith("unet.")}, tmp_path / "a.safetensors"
    )
    with pytest.raises(SystemExit):
        call(tmp_path / "a.safetensors", tmp_path / "out", llm=False)
    printed = capsys.readouterr()
    assert "unet: not in the file, the base's is used" in printed.out
    assert f"{len(names[::2])} weights are missing, the first is decoder.vae." in printed.err


def test_shapes_come_before_the_advice_to_allow(stage1_file, call, tmp_path, capsys):
    """A checkpoint of another size lacks weights too: accepting that would not help."""
    weights = load_file(stage1_file)
    weights["text_encoder.text_model.final_layer_norm.weight"] = torch.zeros(3)
    del weights["text_encoder.text_model.final_layer_norm.bias"]
    save_file(weights, tmp_path / "a.safetensors")
    line = refused(capsys, lambda: call(tmp_path / "a.safetensors", tmp_path / "out", llm=False))
    assert "final_layer_norm.weight has shape (3,)" in line
    assert "allow" not in line


def test_weights_of_several_formats_or_of_none_are_refused(stage1_file, call, tmp_path, capsys):
    weights = load_file(stage1_file)
    name = "text_encoder.text_model.final_layer_norm.bias"
    for suffix in ("safetensors", "pt"):
        source = tmp_path / f"a.{suffix}"
        for dtype, words in ((torch.float16, "several formats"), (torch.int8, "is of "), (torch.int64, "is of int64")):
            changed = weights | {name: weights[name].to(dtype)}
            save_file(changed, source) if suffix == "safetensors" else torch.save(changed, source)
            line = refused(capsys, lambda source=source: call(source, tmp_path / "out", llm=False))
            assert words in line
            assert name in line
    half = {key: value.half() for key, value in weights.items()}
    save_file(half, tmp_path / "half.safetensors")
    call(tmp_path / "half.safetensors", tmp_path / "half", llm=False)
    assert {value.dtype for value in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}


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


@pytest.mark.parametrize("kind", ["truncated pt", "truncated safetensors", "text", "script", "empty folder", "absent"])
def test_broken_sources_are_one_line(stage1_file, call, tmp_path, capsys, kind, recwarn):
    source = tmp_path / ("a.safetensors" if "safetensors" in kind else "a.pt")
    if kind == "truncated pt":
        torch.save(load_file(stage1_file), source)
        source.write_bytes(source.read_bytes()[:5000])
    elif kind == "truncated safetensors":
        source.write_bytes(stage1_file.read_bytes()[:5000])
    elif kind == "text":
        source.write_text("hello")
    elif kind == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(source)
        recwarn.clear()
    elif kind == "empty folder":
        source.mkdir()
    line = refused(capsys, lambda: call(source, tmp_path / "out", llm=False))
    assert str(source) in line
    assert not [warning for warning in recwarn if "weights_only" in str(warning.message)]


@pytest.mark.parametrize(
    "content", [b"[]", b'{"weight_map": []}', b'{"weight_map": {"a": 3}}', b"\xff\xfe\x00", b"[" * 90000]
)
def test_a_broken_index_of_shards_is_one_line(call, tmp_path, capsys, content):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors.index.json").write_bytes(content)
    line = refused(capsys, lambda: call(tmp_path / "hub", tmp_path / "out", llm=False))
    assert "model.safetensors.index.json" in line


@pytest.mark.parametrize("weights", [{0: torch.zeros(2)}, {(1, 2): torch.zeros(2)}, torch.zeros(2), {"a": [1]}])
def test_a_pickle_without_names_is_one_line(call, tmp_path, capsys, weights):
    torch.save(weights, tmp_path / "a.pt")
    assert "holds no tensors by name" in refused(capsys, lambda: call(tmp_path / "a.pt", tmp_path / "out", llm=False))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("query_embed", torch.tensor(1.0), r"query_embed has shape \(\), and \(1, queries, width\)"),
        ("query_embed", torch.zeros(77), r"query_embed has shape \(77,\)"),
        ("query_embed", torch.zeros(1, 500, 64), "num_queries=500 cannot be used: give 1 to 77"),
        ("query_embed", torch.full((1, 77, 64), float("nan")), "query_embed holds values that are not finite"),
        ("module.query_embed", torch.zeros(1, 77, 64), "module.query_embed and query_embed are one weight"),
    ],
)
def test_queries_that_cannot_be_used_are_refused(stage1_file, call, tmp_path, capsys, key, value, words):
    save_file(load_file(stage1_file) | {key: value}, tmp_path / "a.safetensors")
    line = refused(capsys, lambda: call(tmp_path / "a.safetensors", tmp_path / "out", llm=False))
    assert re.search(words, line), line
    assert not list(tmp_path.glob("*out*"))  # no half-written folder either, so that a second try can use the name


def test_a_captioners_doubled_weights_are_refused(stage2_file, call, tmp_path, capsys):
    weights = load_file(stage2_file)
    weights["module.VLV_model.query_embed"] = weights["VLV_model.query_embed"] + 1
    save_file(weights, tmp_path / "a.safetensors")
    for more in ([], ["stage1_only=true"]):
        line = refused(capsys, lambda more=more: call(tmp_path / "a.safetensors", tmp_path / "out", *more))
        assert "are one weight in VLV" in line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["encoder_resolution=4096"], "encoder_resolution=4096"),
        (["encoder_resolution=0"], "encoder_resolution=0"),
        (["decoder_resolution=0"], "decoder_resolution=0"),
        (["decoder_resolution=63"], "decoder_resolution=63"),
    ],
)
def test_resolutions_that_could_not_be_loaded_are_refused(stage1_file, call, tmp_path, capsys, option, words):
    assert words in refused(capsys, lambda: call(stage1_file, tmp_path / "out", *option, llm=False))


@pytest.mark.parametrize(
    ("option", "name", "kind"), [("llm", "florence2", "florence2"), ("florence2", "qwen", "qwen2")]
)
def test_a_base_of_another_kind_is_named(stage2_file, bases, call, tmp_path, capsys, option, name, kind):
    line = refused(capsys, lambda: call(stage2_file, tmp_path / "out", f"{option}={bases / name}"))
    assert f"{option}: {bases / name} holds a model of type {kind}" in line


@pytest.fixture
def zero(tmp_path):
    """A DeepSpeed folder with two steps, in a place whose name has a space."""
    folder = tmp_path / "my run"
    for step in ("global_step10", "global_step20"):
        (folder / step).mkdir(parents=True)
        (folder / step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
        (folder / step / "mp_rank_00_model_states.pt").write_bytes(b"x")
    (folder / "latest").write_text("global_step20")
    return folder


def test_deepspeed_folders_are_refused_with_the_command_for_their_step(zero, call, tmp_path, capsys):
    for source, tag in ((zero, ""), (zero / "global_step10", " -t global_step10")):
        line = refused(capsys, lambda source=source: call(source, tmp_path / "out", llm=False))
        assert f"`python '{zero}/zero_to_fp32.py' '{zero}' consolidated{tag}`" in line
        assert "trust" in line
    (zero / "latest").unlink()
    (zero / "global_step10").rename(zero / "step_7")  # as the published code names them
    assert "consolidated -t global_step20`" in refused(capsys, lambda: call(zero, tmp_path / "out", llm=False))
    assert "consolidated -t step_7`" in refused(capsys, lambda: call(zero / "step_7", tmp_path / "out", llm=False))


def test_a_deepspeed_folder_without_optimizer_states_is_named(zero, call, tmp_path, capsys):
    for path in zero.rglob("*optim_states.pt"):
        path.unlink()
    line = refused(capsys, lambda: call(zero, tmp_path / "out", llm=False))
    assert "without the optimizer states" in line
    assert "global_step20/mp_rank_00_model_states.pt" in line


@pytest.mark.parametrize("fault", ["extra", "shape", "missing", "no tokenizer"])
def test_faults_of_an_original_florence2_are_refused(bases, call, tmp_path, capsys, fault):
    source = tmp_path / "florence2"
    shutil.copytree(bases / "florence2", source)
    weights = load_file(source / "model.safetensors")
    name = "image_proj_norm.weight"
    if fault == "extra":
        weights["odd.weight"] = torch.zeros(1)
    elif fault == "shape":
        weights[name] = torch.zeros(3)
    elif fault == "missing":
        del weights[name]
    else:
        for path in [*source.glob("tokenizer*"), *source.glob("vocab*")]:
            path.unlink()
    (source / "model.safetensors").unlink()
    save_file(weights, source / "model.safetensors")
    line = refused(capsys, lambda: main([str(source), str(tmp_path / "out")]))
    words = {
        "extra": "odd.weight",
        "shape": "has shape (3,)",
        "missing": "image_proj_norm",
        "no tokenizer": "holds no vocabulary",
    }
    assert words[fault] in line
    assert not list(tmp_path.glob("*out*"))


def test_bases_are_asked_for_by_name(stage2_file, tmp_path, capsys):
    line = refused(capsys, lambda: main([str(stage2_file), str(tmp_path / "out")]))
    assert "stable_diffusion=FOLDER, florence2=FOLDER, llm=FOLDER" in line
