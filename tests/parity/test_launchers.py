"""The published files, imported, caption and reconstruct through the launchers."""

import json

import pytest

from tests.integration.conftest import ROOT, Launcher


@pytest.fixture
def launch(tmp_path):
    return Launcher(tmp_path)


def test_an_imported_captioner_captions_and_previews(launch, imported_stage2, imported_stage1, sample_photos, tmp_path):
    done = launch(
        "Caption_inference.sh", f"stage1_path={imported_stage1}", IMAGE_PATH=sample_photos, CKPT_DIR=imported_stage2,
        OUTPUT_DIR=tmp_path / "c.json", NUM_BEAMS=2, MAX_NEW_TOKENS=6, NUM_INFERENCE_STEPS=2,
        PREVIEW_DIR=tmp_path / "p",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "c.json").read_text())) == 4
    assert (tmp_path / "p" / "index.html").is_file()


def test_an_imported_captioner_without_its_stage1_says_so(launch, imported_stage2, sample_photos, tmp_path):
    done = launch(
        "Caption_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=imported_stage2, OUTPUT_DIR=tmp_path / "c.json",
        PREVIEW_DIR=tmp_path / "p",
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert "set stage1_path" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_imported_stage1_reconstructs(launch, imported_stage1, sample_photos, tmp_path):
    done = launch(
        "Image_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=imported_stage1, OUTPUT_DIR=tmp_path / "out",
        NUM_INFERENCE_STEPS=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "comparisons").glob("*.png"))) == 4


def test_stage2_trains_on_an_imported_stage1(launch, imported_stage1, tiny_components, sample_photos, tmp_path):
    done = launch(
        "train_stage2.sh", "val_pictures=0",
        CONFIG=ROOT / "configs/stage2_tiny.yaml",
        dataset_path=sample_photos, val_dataset_path=sample_photos, qwen_model=tiny_components / "qwen",
        diffusion_model_path=imported_stage1, output_dir=tmp_path / "run", total_steps=2, batch_size=4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
