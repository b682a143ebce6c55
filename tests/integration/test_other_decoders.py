"""SDXL and SD 3.5 through the launchers: both stages, captions, reconstructions, each by its decoder alone."""

import json
from functools import partial

import pytest

from scripts.make_tiny_components import main as make_components
from tests.integration.conftest import ROOT, metrics, train_tiny_stage1


@pytest.fixture(scope="session", params=["stable-diffusion-xl", "stable-diffusion-3.5"])
def other(request, tmp_path_factory):
    """(name, folder of tiny components) with another decoder."""
    folder = tmp_path_factory.mktemp("other")
    make_components([str(folder), "--decoder", request.param])
    return request.param, folder


@pytest.fixture
def train_stage1(launch, other, sample_photos):
    name, components = other
    parts = {"stable_diffusion_model_path": components / name, "florence2_model_path": components / "florence2"}
    return partial(train_tiny_stage1, launch, sample_photos, **parts)


def test_stage1_lowers_its_fixed_noise_loss_on_a_few_pictures(train_stage1, tmp_path):
    train_stage1(tmp_path / "untrained", "val_pictures=0", num_steps=1, save_step=1, lr=1e-9)
    train_stage1(tmp_path / "trained", "val_pictures=0", num_steps=60, save_step=60, lr=1e-3)
    before, after = metrics(tmp_path / "untrained", "val/loss")[1], metrics(tmp_path / "trained", "val/loss")[60]
    # The tiny denoiser is random, so that the encoder can lower a part of its error alone.
    assert before - after > 0.01


@pytest.mark.parametrize("conditioning", ["text_encoder", "direct", "clip"])
def test_all_four_launchers_run(launch, train_stage1, other, sample_photos, tmp_path, conditioning):
    name, components = other
    if conditioning == "clip" and name == "stable-diffusion-xl":
        pytest.skip("SDXL has no T5 to leave out")
    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    train_stage1(
        stage1,
        "val_pictures=2",
        "val_inference_steps=2",
        f"conditioning={conditioning}",
        "conditioning_dropout=0.3",
        "gradient_checkpointing=true",
        num_steps=4,
        save_step=4,
    )
    assert set(metrics(stage1, "train/loss")) == {1, 2, 3, 4}
    done = launch(
        "train_stage2.sh",
        "log_every=1",
        "val_pictures=1",
        "diffusion_weight=1",
        CONFIG=ROOT / "configs/stage2_tiny.yaml",
        dataset_path=sample_photos,
        val_dataset_path=sample_photos,
        qwen_model=components / "qwen",
        diffusion_model_path=stage1 / "final",
        output_dir=stage2,
        total_steps=2,
        save_step=2,
        batch_size=4,
    )
    assert done.returncode == 0, done.stderr
    captions = tmp_path / "captions.json"
    previews = {"PREVIEW_DIR": tmp_path / "previews", "NUM_INFERENCE_STEPS": 2}
    done = launch(
        "Caption_inference.sh",
        IMAGE_PATH=sample_photos,
        CKPT_DIR=stage2 / "final",
        OUTPUT_DIR=captions,
        CONFIG=ROOT / "configs/caption_tiny.yaml",
        MAX_NEW_TOKENS=4,
        **previews,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(captions.read_text())) == 4
    done = launch(
        "Image_inference.sh",
        IMAGE_PATH=sample_photos,
        CKPT_DIR=stage1 / "final",
        OUTPUT_DIR=tmp_path / "drawn",
        CONFIG=ROOT / "configs/reconstruct_tiny.yaml",
        NUM_INFERENCE_STEPS=2,
    )
    assert done.returncode == 0, done.stderr
    drawn = json.loads((tmp_path / "drawn" / "metrics.json").read_text())["seeds"][0]
    assert drawn["n"] == 4
    assert drawn["scheduler"] == ("ddpm" if name == "stable-diffusion-xl" else "euler")
