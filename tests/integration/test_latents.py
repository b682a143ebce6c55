"""`vlv data latents`, and training from what it writes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.integration.conftest import ROOT, metrics, one_line
from vlv.data.formats import SourceSettings
from vlv.data.latent_cache import LatentSource, facts_of
from vlv.data.sources import open_source
from vlv.decoders.building import load_vae
from vlv.decoders.latent import posterior_moments
from vlv.models.image_processor import VLVImageProcessor

EXACT = ("numbers=fp32", "encoding=png", "captions=true", "samples_per_shard=3")
CPUS = "accelerate_config=configs/accelerate/cpu.yaml"
TINY1 = ROOT / "configs/stage1_tiny.yaml"


def make(source, folder, components, *arguments):
    """Run the command; the tiny recipe's size of 64."""
    decoder = f"stable_diffusion_model_path={components['stable_diffusion_model_path']}"
    command = [sys.executable, "-m", "vlv", "data", "latents", str(source), str(folder), decoder, "num_workers=0"]
    return subprocess.run(
        [*command, "decoder_resolution=64", "batch_size=3", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exact(components, sample_photos, tmp_path_factory):
    """Latents that lose nothing, in files of three samples."""
    folder = tmp_path_factory.mktemp("latents") / "exact"
    done = make(sample_photos, folder, components, *EXACT)
    assert done.returncode == 0, done.stderr
    return folder


def test_what_is_written(exact, components, sample_photos):
    """The VAE's own moments of the crop, the crop's pixels, its place, and the captions."""
    source, photos = (open_source(str(path), SourceSettings(captions=True)) for path in (exact, sample_photos))
    assert isinstance(source, LatentSource)
    assert len(source) == len(photos)
    vae, shape = load_vae(components["stable_diffusion_model_path"], 64)
    assert facts_of(source).shape == (2, *shape)
    processor = VLVImageProcessor(64, 64)
    from vlv.data.transforms import decode_image

    for index in range(len(source)):
        found, photo = source.read(index), photos.read(index)
        assert source.name(index) == photos.name(index)
        assert found.caption == photo.caption
        expected = processor(decode_image(photo.image))
        assert torch.equal(processor(decode_image(found.image))["decoder_pixels"], expected["decoder_pixels"])
        assert found.image.crop == expected["crop"].tolist()
        moments = posterior_moments(vae, expected["decoder_pixels"][None])[0]
        assert torch.allclose(torch.tensor(found.image.moments), moments, atol=1e-5)


@pytest.mark.parametrize(("arguments", "distance"), [((), 0.02), (("numbers=fp32", "encoding=png"), 1e-4)])
def test_training_from_latents_has_the_losses_of_pixels(
    launch, stage1, components, sample_photos, tmp_path, arguments, distance
):
    """For the same noise: exactly but for rounding where nothing was lost, nearly where fp16 and JPEG lose a little."""
    assert make(sample_photos, tmp_path / "latents", components, *arguments).returncode == 0
    done = launch(
        "train_stage1.sh", "log_every=1", "val_pictures=0",
        CONFIG=TINY1, train_dataset_path=tmp_path / "latents", val_dataset_path=sample_photos,
        output_dir=tmp_path / "run", num_steps=8, save_step=4, global_batch_size=4, **components,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pixels, latents = metrics(stage1, "train/loss"), metrics(tmp_path / "run", "train/loss")
    assert pixels.keys() == latents.keys()
    assert all(abs(pixels[step] - latents[step]) < distance for step in pixels)
    assert abs(metrics(stage1, "val/loss")[8] - metrics(tmp_path / "run", "val/loss")[8]) < distance


def test_latents_of_another_vae_or_size_are_refused(launch, exact, components, sample_photos, tmp_path):
    def train(*settings, data=tmp_path / "latents", val=sample_photos):
        done = launch(
            "train_stage1.sh", *settings, CONFIG=TINY1, train_dataset_path=data, val_dataset_path=val,
            output_dir=tmp_path / "run", **components,
        )  # fmt: skip
        assert done.returncode == 1
        return one_line(done)

    (tmp_path / "latents").mkdir()
    for file in exact.iterdir():
        (tmp_path / "latents" / file.name).write_bytes(file.read_bytes())
    assert "decoder_resolution=64 instead of 32, moments of shape" in train("decoder_resolution=32")
    manifest = json.loads((exact / "latents.json").read_text())
    manifest["vae"]["weights_fingerprint"] = "0" * 64
    (tmp_path / "latents" / "latents.json").write_text(json.dumps(manifest))
    assert "the latents do not fit the run: another VAE; make them anew with vlv data latents" in train()
    # Those of the validation too.
    assert "the latents do not fit the run: another VAE" in train(data=sample_photos, val=tmp_path / "latents")


def test_a_killed_call_goes_on_to_the_same_bytes(exact, components, sample_photos, tmp_path):
    """Killed while it writes: the files that are there stay, and nothing half written is taken for one."""
    folder = tmp_path / "latents"
    decoder = f"stable_diffusion_model_path={components['stable_diffusion_model_path']}"
    command = [sys.executable, "-m", "vlv", "data", "latents", str(sample_photos), str(folder), decoder]
    process = subprocess.Popen(
        [*command, "decoder_resolution=64", "batch_size=3", "num_workers=0", *EXACT], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(folder.glob("*.arrow"))
    time.sleep(1)  # the worker, in a session of its own, ends with its launcher
    (folder / f".{'0' * 40}.tmp").write_bytes(b"half")  # what a call leaves that is killed while it writes a file
    done = make(sample_photos, folder, components, *EXACT)
    assert done.returncode == 0, done.stderr
    for file in exact.glob("*.arrow"):
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert (folder / "latents.json").read_bytes() == (exact / "latents.json").read_bytes()
    assert not list(folder.glob("*.tmp*"))


@pytest.mark.distributed
def test_two_processes_write_what_one_does(exact, components, sample_photos, tmp_path):
    done = make(sample_photos, tmp_path / "latents", components, *EXACT, "num_gpus=2", CPUS)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in exact.glob("*.arrow"))
    assert len(names) > 1  # so that both have work
    for name in [*names, "latents.json"]:
        assert (tmp_path / "latents" / name).read_bytes() == (exact / name).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(exact, components, sample_photos):
    done = make(sample_photos, exact, components, *EXACT, "numbers=fp16")
    assert done.returncode == 1
    assert "holds latents of another call (numbers fp32 -> fp16): give another output_dir" in one_line(done)


def test_unreadable_images_are_left_out(components, sample_photos, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for photo in sorted(sample_photos.glob("*.jpg"))[:2]:
        (images / photo.name).write_bytes(photo.read_bytes())
    (images / "broken.jpg").write_bytes(b"no image")
    done = make(images, tmp_path / "latents", components)
    assert done.returncode == 0, done.stderr
    assert "latents of 2 of 3 samples" in done.stdout
    (line,) = (tmp_path / "latents" / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "broken.jpg"
    assert len(open_source(str(tmp_path / "latents"))) == 2
