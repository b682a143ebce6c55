import json
import shutil

import pytest
from PIL import Image

from tests.integration.conftest import ROOT, one_line

TINY2 = ROOT / "configs/stage2_tiny.yaml"


@pytest.fixture(scope="module")
def mixed_folder(sample_photos, tmp_path_factory):
    """20 good images in two folders and 5 broken ones of different kinds."""
    folder = tmp_path_factory.mktemp("mixed")
    photo = Image.open(sample_photos / "cat.jpg").convert("RGB")
    (folder / "more").mkdir()
    for number in range(20):
        image = photo.rotate(18 * number)
        ending = ("jpg", "png", "webp", "bmp", "gif", "tiff")[number % 6]
        image.save(folder / ("more" if number % 2 else ".") / f"good{number:02d}.{ending}")
    whole = (sample_photos / "cat.jpg").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 3])
    damaged = bytearray((sample_photos / "cat.jpg").read_bytes())
    damaged[2:20] = bytes(18)
    (folder / "header.jpg").write_bytes(bytes(damaged))
    Image.new("1", (30000, 20000)).save(folder / "huge.png")
    return folder


BROKEN = {"empty.jpg", "text.png", "truncated.jpg", "header.jpg", "huge.png"}


@pytest.mark.distributed
@pytest.mark.parametrize("num_gpus", [1, 2])
def test_captions_of_a_mixed_folder(launch, stage2, mixed_folder, tmp_path, num_gpus):
    variables = {} if num_gpus == 1 else {"ACCELERATE_CONFIG": ROOT / "configs/accelerate/cpu.yaml"}
    done = launch(
        "Caption_inference.sh", IMAGE_PATH=mixed_folder, CKPT_DIR=stage2 / "final", OUTPUT_DIR=tmp_path / "c.json",
        NUM_BEAMS=1, MAX_NEW_TOKENS=4, BATCH_SIZE=6, NUM_GPUS=num_gpus, **variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    captions = json.loads((tmp_path / "c.json").read_text())
    assert len(captions) == 20
    assert list(captions) == sorted(captions)
    assert "more/good01.png" in captions
    for name in BROKEN:
        assert name in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.partial"))


def test_reconstructions_of_a_mixed_folder(launch, stage1, mixed_folder, tmp_path):
    done = launch(
        "Image_inference.sh", IMAGE_PATH=mixed_folder, CKPT_DIR=stage1 / "final", OUTPUT_DIR=tmp_path / "out",
        NUM_INFERENCE_STEPS=2, BATCH_SIZE=8,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pictures = list((tmp_path / "out" / "reconstructions").rglob("*.png"))
    comparisons = list((tmp_path / "out" / "comparisons").rglob("*.png"))
    assert len(pictures) == len(comparisons) == 20
    assert Image.open(pictures[0]).size == (64, 64)
    assert Image.open(comparisons[0]).width >= 128
    measures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    text = json.dumps(measures)
    assert "fd_vision_tower" in text
    assert '"fid"' not in text
    for name in BROKEN:
        assert name in done.stdout + done.stderr
    assert (tmp_path / "out" / "index.html").is_file()


def test_previews_draw_with_the_stage1_model(launch, stage2, sample_photos, tmp_path):
    done = launch(
        "Caption_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=stage2 / "final", OUTPUT_DIR=tmp_path / "c.json",
        NUM_BEAMS=1, MAX_NEW_TOKENS=4, PREVIEW_DIR=tmp_path / "preview", NUM_INFERENCE_STEPS=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "preview" / "index.html").read_text()
    captions = json.loads((tmp_path / "c.json").read_text())
    assert all(name in page for name in captions)
    assert "no effect" not in done.stderr


def test_guidance_without_previews_has_no_effect_and_says_so(launch, stage2, sample_photos, tmp_path):
    done = launch(
        "Caption_inference.sh", IMAGE_PATH=sample_photos / "cat.jpg", CKPT_DIR=stage2 / "final",
        OUTPUT_DIR=tmp_path / "c.json", NUM_BEAMS=1, MAX_NEW_TOKENS=2, GUIDANCE_SCALE=3.0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no effect" in done.stderr
    assert list(json.loads((tmp_path / "c.json").read_text())) == ["cat.jpg"]


def test_previews_without_the_stage1_model_say_so(launch, stage2, sample_photos, tmp_path):
    shutil.copytree(stage2 / "final", tmp_path / "captioner")
    config = json.loads((tmp_path / "captioner" / "config.json").read_text())
    config["origin"]["stage1"]["source"] = str(tmp_path / "gone")
    (tmp_path / "captioner" / "config.json").write_text(json.dumps(config))
    done = launch(
        "Caption_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=tmp_path / "captioner",
        OUTPUT_DIR=tmp_path / "c.json", PREVIEW_DIR=tmp_path / "preview",
    )  # fmt: skip
    assert done.returncode == 2
    assert "stage1_path" in one_line(done)


def test_captions_come_back_word_for_word(launch, stage1, tiny_components, sample_photos, tmp_path):
    """The proof that gradients, prefix, labels and EOS are right: learned by heart, ended by the model itself."""
    done = launch(
        "train_stage2.sh", "val_pictures=0", "log_every=50", "warmup_steps=10",
        CONFIG=TINY2, dataset_path=sample_photos, val_dataset_path=sample_photos, qwen_model=tiny_components / "qwen",
        diffusion_model_path=stage1 / "final", output_dir=tmp_path / "run", total_steps=200, save_step=200,
        batch_size=4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = launch(
        "Caption_inference.sh", IMAGE_PATH=sample_photos, CKPT_DIR=tmp_path / "run" / "final",
        OUTPUT_DIR=tmp_path / "c.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads((sample_photos / "captions.json").read_text())
