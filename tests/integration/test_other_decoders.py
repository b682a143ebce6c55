"""Every other decoder through the launchers: both stages, captions, reconstructions, each by its decoder alone."""

import json
from functools import partial

import pytest

from scripts.make_tiny_components import main as make_components
from tests.integration.conftest import ROOT, metrics, train_tiny_stage1

# How make_tiny_components writes each, beside the Stable Diffusion 2.1-base of all other tests.
MEMBERS = {
    "1.5": ("stable-diffusion-1.5",),
    "2.1-v": ("stable-diffusion", "prediction_type=v_prediction"),
    "xl": ("stable-diffusion-xl",),
    "3.5-medium": ("stable-diffusion-3.5",),
    "3.5-large": ("stable-diffusion-3.5-large",),
}


@pytest.fixture(scope="session")
def other(request, tmp_path_factory):
    """(member, decoder's folder, folder of the other tiny components)."""
    folder = tmp_path_factory.mktemp("other")
    name, *settings = MEMBERS[request.param]
    make_components([str(folder), f"decoder={name}", *settings])
    return request.param, folder / name, folder


@pytest.fixture
def train_stage1(launch, other, sample_photos):
    _, decoder, components = other
    parts = {"stable_diffusion_model_path": decoder, "florence2_model_path": components / "florence2"}
    return partial(train_tiny_stage1, launch, sample_photos, **parts)


# The others are overfitted without a launcher, in tests/unit/models.
@pytest.mark.parametrize("other", [pytest.param("xl", marks=pytest.mark.slow), "3.5-medium"], indirect=True)
def test_stage1_lowers_its_fixed_noise_loss_on_a_few_pictures(train_stage1, tmp_path):
    train_stage1(tmp_path / "untrained", "val_pictures=0", num_steps=1, save_step=1, lr=1e-9)
    train_stage1(tmp_path / "trained", "val_pictures=0", num_steps=60, save_step=60, lr=1e-3)
    before, after = metrics(tmp_path / "untrained", "val/loss")[1], metrics(tmp_path / "trained", "val/loss")[60]
    # The tiny denoiser is random, so that the encoder can lower a part of its error alone.
    assert before - after > 0.01


@pytest.mark.parametrize(
    ("other", "conditioning"),
    [
        # One of each kind of denoiser and text encoders by default: each takes a minute.
        *((member, "text_encoder") for member in ("1.5", "xl", "3.5-medium")),
        *(pytest.param(member, "text_encoder", marks=pytest.mark.slow) for member in ("2.1-v", "3.5-large")),
        pytest.param("xl", "direct", marks=pytest.mark.slow),
        pytest.param("3.5-medium", "direct", marks=pytest.mark.slow),
        pytest.param("3.5-medium", "clip", marks=pytest.mark.slow),
    ],
    indirect=["other"],
)
def test_all_four_launchers_run(launch, train_stage1, other, sample_photos, tmp_path, conditioning):
    name, _, components = other
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
        *(["t5_dtype=bf16"] if name == "3.5-large" else []),
        IMAGE_PATH=sample_photos,
        CKPT_DIR=stage1 / "final",
        OUTPUT_DIR=tmp_path / "drawn",
        CONFIG=ROOT / "configs/reconstruct_tiny.yaml",
        NUM_INFERENCE_STEPS=2,
    )
    assert done.returncode == 0, done.stderr
    drawn = json.loads((tmp_path / "drawn" / "metrics.json").read_text())["seeds"][0]
    assert drawn["n"] == 4
    assert drawn["scheduler"] == ("euler" if name.startswith("3.5") else "ddpm")
