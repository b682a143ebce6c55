"""Each bad call is one clear line with the fix, no trace, and exit code 2 (or 1 where the run fails)."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.integration.conftest import ROOT, one_line

TINY1, TINY2 = ROOT / "configs/stage1_tiny.yaml", ROOT / "configs/stage2_tiny.yaml"


@pytest.fixture
def good(components, sample_photos, tmp_path):
    return {
        "CONFIG": TINY1,
        "train_dataset_path": sample_photos,
        "val_dataset_path": sample_photos,
        "output_dir": tmp_path / "run",
        **components,
    }


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("train_dataset_path", "{tmp}/empty", "holds nothing that can be read"),
        ("train_dataset_path", "{tmp}/absent", "does not exist"),
        ("stable_diffusion_model_path", "./pretrained_checkpoints/stable-diffusion-2-1-base", "vlv download sd"),
        ("florence2_model_path", "{tmp}/empty", "not a model"),
        ("output_dir", "/proc/run", "cannot be written"),
        ("global_batch_size", "-1", "give at least 1"),
        ("ACCELERATE_CONFIG", "absent.yaml", "is not there"),
        ("CONFIG", "{tmp}/absent.yaml", "configs/"),
        ("lr", "fast", "lr=fast cannot be used: give a number"),
    ],
)
def test_stage1_bad_calls(launch, good, tmp_path, variable, value, words):
    (tmp_path / "empty").mkdir()
    done = launch("train_stage1.sh", **{**good, variable: value.format(tmp=tmp_path)})
    assert done.returncode == 2, done.stderr
    assert words in one_line(done)


def test_a_typo_names_the_near_key(launch, good):
    done = launch("train_stage1.sh", "max_microbatch=4", **good)
    assert done.returncode == 2
    assert "did you mean max_micro_batch?" in one_line(done)


def test_a_global_batch_that_does_not_divide_names_the_nearest(launch, good):
    cpu = ROOT / "configs/accelerate/cpu.yaml"
    done = launch("train_stage1.sh", **good, global_batch_size=7, num_gpus=2, ACCELERATE_CONFIG=cpu)
    assert done.returncode == 2
    assert "6 or 8" in one_line(done)


def test_more_gpus_than_there_are_names_the_call_that_fits(launch, good):
    done = launch("train_stage1.sh", **good, num_gpus=64, global_batch_size=64, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "num_gpus=1 runs on the CPU" in one_line(done)


def test_stage1_wanted_captioner_given(launch, stage2, tiny_components, sample_photos, tmp_path):
    done = launch(
        "train_stage2.sh", CONFIG=TINY2, dataset_path=sample_photos, qwen_model=tiny_components / "qwen",
        diffusion_model_path=stage2 / "final", output_dir=tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 2
    assert "is a captioner" in one_line(done)


def test_captioner_wanted_stage1_given(launch, stage1, sample_photos):
    done = launch("Caption_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=stage1 / "final")
    assert done.returncode == 2
    assert "is a stage-1 checkpoint" in one_line(done)


def test_stage1_for_pictures_captioner_given(launch, stage2, sample_photos):
    done = launch("Image_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=stage2 / "final")
    assert done.returncode == 2
    assert "is a captioner" in one_line(done)


def test_a_run_folder_names_its_final(launch, stage1, sample_photos):
    done = launch("Image_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=stage1)
    assert done.returncode == 2
    assert "final" in one_line(done)


def test_a_moved_base_is_named(launch, stage1, sample_photos, tmp_path):
    shutil.copytree(stage1 / "final", tmp_path / "final")
    config = tmp_path / "final" / "config.json"
    config.write_text(config.read_text().replace("/florence2", "/gone"))
    done = launch(
        "Image_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=tmp_path / "final", OUTPUT_DIR=tmp_path / "o"
    )
    assert done.returncode == 2
    assert "florence2_model_path" in one_line(done)


def test_a_truncated_checkpoint_is_one_line(launch, stage1, sample_photos, tmp_path):
    shutil.copytree(stage1 / "final", tmp_path / "final")
    weights = tmp_path / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = launch(
        "Image_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=tmp_path / "final", OUTPUT_DIR=tmp_path / "o"
    )
    assert done.returncode == 1
    assert "model.safetensors" in one_line(done)


@pytest.mark.skipif(torch.version.cuda is not None, reason="its libraries alone take more than 5 GB of addresses")
def test_out_of_memory_says_what_to_set(good):
    """A process that may take no more than 5 GB of addresses, and a batch that needs more."""
    call = (
        f"ulimit -v 5000000; exec bash {ROOT / 'train_stage1.sh'} decoder_resolution=512 num_workers=0 val_pictures=0"
    )
    variables = {**good, "global_batch_size": 128, "PYTHON": sys.executable}
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    done = subprocess.run(["bash", "-c", call], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "micro-batch of 64: set max_micro_batch=32" in one_line(done)


def test_a_dataset_of_which_nothing_can_be_read_is_a_failed_run(launch, good, tmp_path):
    (tmp_path / "junk").mkdir()
    for number in range(4):
        (tmp_path / "junk" / f"{number}.jpg").write_text("no picture")
    done = launch("train_stage1.sh", **{**good, "train_dataset_path": tmp_path / "junk"}, num_steps=2)
    assert done.returncode == 1
    assert "no sample of the 2 steps up to 2 could be used" in one_line(done)
    assert "bad_samples.jsonl" in one_line(done)


def test_more_image_tokens_than_positions_names_the_largest_resolution(launch, good):
    done = launch("train_stage1.sh", "encoder_resolution=1024", **good)
    assert done.returncode == 2
    assert "encoder_resolution=1024" in one_line(done)
    assert "480" in one_line(done)
