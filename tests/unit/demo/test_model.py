"""What the page shows is what the package computes elsewhere, on the small world's kept models."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from vlv.checkpoints.identity import CheckpointError
from vlv.demo.loading import load_demo_model
from vlv.demo.model import DemoModel, Sampling, join_rows
from vlv.models import VLVCaptioner
from vlv.models.image_processor import to_images
from vlv.sampling import sample_generators
from vlv.shapes.render import render
from vlv.shapes.runs import TRAINED
from vlv.shapes.scene import make_scene

SAMPLING = Sampling(seed=3, guidance_scale=1.5, num_inference_steps=2)
FOLDER = TRAINED / "captioner"


@pytest.fixture(scope="module")
def captioner():
    return VLVCaptioner.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model(captioner):
    return load_demo_model(captioner, FOLDER)


@pytest.fixture(scope="module")
def images():
    return [render(make_scene("test", number), number) for number in range(2)]


def same(picture, other):
    return np.array_equal(np.asarray(picture), np.asarray(other))


def reconstruction(model, image):
    (picture,) = model._pictures.autoencoder.reconstruct([image], 1.5, 2, seeds=3)
    return picture


def test_the_caption_grows_to_the_captioners_own(model, captioner, images):
    parts = list(model.caption(images[0]))
    assert parts[-1] == captioner.caption([images[0]], num_beams=1)[0]
    assert len(parts) > 5, "it comes in parts"
    assert all(later.startswith(part) for part, later in pairwise(parts))


def test_fewer_rows_are_first_queries(model, captioner, images):
    captioner.encoder.use_first(4)
    expected = captioner.caption([images[0]], num_beams=1)[0]
    captioner.encoder.use_first(None)
    *_, fewer = model.caption(images[0], rows=4)
    *_, whole = model.caption(images[0])
    assert fewer == expected != whole
    encoder = model._pictures.autoencoder.encoder
    encoder.use_first(4)
    picture = reconstruction(model, images[0])
    encoder.use_first(None)
    assert same(model.reconstruct(images[0], SAMPLING, rows=4), picture)
    assert not same(model.reconstruct(images[0], SAMPLING), picture)
    with pytest.raises(ValueError, match="first_queries=11"):
        list(model.caption(images[0], rows=11))
    *_, again = model.caption(images[0])
    assert again == whole, "all rows are read again"


def test_a_reader_that_leaves_stops_the_search(model, images):
    reading = model.caption(images[0])
    next(reading)
    reading.close()
    started = time.monotonic()
    *_, caption = model.caption(images[1])  # waits for the other search to end
    assert caption
    assert time.monotonic() - started < 30


def test_calls_run_one_at_a_time(model, images, monkeypatch):
    inside, most = [], []
    draw = type(model)._draw

    def watched(self, *given):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return draw(self, *given)

    monkeypatch.setattr(DemoModel, "_draw", watched)
    threads = [threading.Thread(target=model.draw_text, args=("a red circle", SAMPLING)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_reconstructions_are_the_autoencoders(model, images):
    assert same(model.reconstruct(images[0], SAMPLING), reconstruction(model, images[0]))


def test_a_texts_picture_is_the_pipelines(model):
    from diffusers import StableDiffusionPipeline

    text = "A large red circle in the center on a white background."
    decoder = model._pictures.autoencoder.decoder
    folder = TRAINED.parent / "stable-diffusion"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = decoder.schedulers["ddim"].from_config(decoder.noise_scheduler.config)
    noise = torch.randn(1, *decoder.latent_shape, generator=sample_generators(3, [0])[0])
    pixels = pipeline(
        text, latents=noise, num_inference_steps=2, guidance_scale=1.5, height=96, width=96, output_type="pt"
    ).images
    (expected,) = to_images((pixels * 255).round().byte())
    drawn = model.draw_text(text, Sampling(3, 1.5, 2, "ddim"))
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_a_text_that_is_too_long_is_known(model):
    assert not model.cuts("a red circle")
    assert model.cuts("a red circle " * 40)


@pytest.mark.parametrize("join", ["in place", "first rows"])
def test_all_rows_of_one_image_are_the_image_itself(model, images, join):
    first, second = images
    assert same(model.compose(first, second, model.rows, join, SAMPLING), reconstruction(model, first))
    assert same(model.compose(first, second, 0, join, SAMPLING), reconstruction(model, second))
    both = model.compose(first, second, 5, join, SAMPLING)
    assert not same(both, reconstruction(model, first))
    assert not same(both, reconstruction(model, second))
    with pytest.raises(ValueError, match="rows=11 cannot be used: give 0 to 10"):
        model.compose(first, second, 11, join, SAMPLING)


def test_rows_are_joined_in_two_ways():
    first, second = torch.arange(4).reshape(1, 4, 1), torch.arange(10, 14).reshape(1, 4, 1)
    assert join_rows(first, second, 3, "in place").flatten().tolist() == [0, 1, 2, 13]
    assert join_rows(first, second, 3, "first rows").flatten().tolist() == [0, 1, 2, 10]


def test_rows_that_are_regions_stay_in_place(model, captioner, monkeypatch):
    assert model.default_join == "in place"
    monkeypatch.setitem(captioner.encoder._modules, "regions", None)
    assert model.default_join == "first rows"


def test_without_its_decoder_it_captions_and_says_why_there_are_no_pictures(captioner, images, monkeypatch):
    monkeypatch.setitem(captioner.origin["decoder"], "source", "stabilityai/stable-diffusion-2-1-base")
    model = load_demo_model(captioner, FOLDER)
    assert not model.draws
    assert "stabilityai/stable-diffusion-2-1-base, is not here: set stable_diffusion_model_path" in model.no_pictures
    assert "\n" not in model.no_pictures
    assert list(model.caption(images[0]))[-1]
    with pytest.raises(ValueError, match="is not here: set stable_diffusion_model_path"):
        model.reconstruct(images[0], SAMPLING)
    given = load_demo_model(captioner, FOLDER, decoder=str(TRAINED.parent / "stable-diffusion"))
    assert given.draws
    assert given.reads_texts


def test_a_wrong_decoder_is_refused(captioner, tiny_components):
    with pytest.raises(CheckpointError, match="is not the one that the checkpoint was trained with"):
        load_demo_model(captioner, FOLDER, decoder=str(tiny_components / "stable-diffusion"))


def test_a_captioner_that_draws_with_its_own_weights_is_loaded_once(captioner, images, monkeypatch):
    from vlv.models import from_stage1

    monkeypatch.setattr(from_stage1, "preview_stage1", lambda *_: None)
    pictures = load_demo_model(captioner, FOLDER)._pictures
    assert pictures.autoencoder.encoder is captioner.encoder
    assert pictures.autoencoder.decoder.conditioner is captioner.conditioner
