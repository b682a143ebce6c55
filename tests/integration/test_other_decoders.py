"""SDXL and SD 3.5 through the launchers: both stages, captions, reconstructions, each by its decoder alone."""

import json

import pytest

from scripts.make_tiny_components import main as make_components
from tests.integration.conftest import ROOT, metrics


@pytest.fixture(scope="session", params=["stable-diffusion-xl", "stable-diffusion-3.5"])
def other(request, tmp_path_factory):
    """(name, folder of tiny components) with another decoder."""
    folder = tmp_path_factory.mktemp("other")
    make_components([str(folder), "--decoder", request.param])
    return request.param, folder


@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
def test_all_four_launchers_run(launch, other, sample_photos, tmp_path, conditioning):
    name, components = other
    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    done = launch(
        "train_stage1.sh",
        "log_every=1",
        "val_pictures=2",
        "val_inference_steps=2",
        f"conditioning={conditioning}",
        "conditioning_dropout=0.3",
        "gradient_checkpointing=true",
        CONFIG=ROOT / "configs/stage1_tiny.yaml",
        train_dataset_path=sample_photos,
        val_dataset_path=sample_photos,
        output_dir=stage1,
        num_steps=4,
        save_step=4,
        global_batch_size=4,
        stable_diffusion_model_path=components / name,
        florence2_model_path=components / "florence2",
    )
    assert done.returncode == 0, done.stderr
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
