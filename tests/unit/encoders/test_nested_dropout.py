"""Fewer embeddings: a random number of the first in training (nested dropout), a chosen one in inference."""

from collections import Counter

import pytest
import torch
from PIL import Image

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder
from vlv.decoders import DecoderSettings
from vlv.encoders import EncoderSettings
from vlv.sampling import sample_generators

QUERIES = 6


@pytest.fixture(scope="module")
def model(tiny_components):
    return new_stage1(tiny_components, num_queries=QUERIES)


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator) for side in (128, 64)]


def test_the_first_rows_are_those_of_all(model, pixels):
    whole = model.encoder(pixels[0])
    model.encoder.use_first(2)
    first = model.encoder(pixels[0])
    model.encoder.use_first(None)
    assert all(torch.equal(first[name], rows[:, :2]) for name, rows in whole.items())


@pytest.mark.parametrize("queries", [0, QUERIES + 1])
def test_a_number_that_the_model_lacks_is_named(model, queries):
    with pytest.raises(ValueError, match=f"first_queries={queries} cannot be used: this model has {QUERIES} queries"):
        model.encoder.use_first(queries)


def test_the_share_of_passes_and_the_numbers_are_even(model):
    encoder, embeddings = model.encoder, {"text": torch.zeros(1, QUERIES, 1)}
    encoder.nested_dropout = 0.5
    torch.manual_seed(0)
    encoder.train()
    kept = Counter(encoder.leave_out(embeddings)["text"].shape[1] for _ in range(6_000))
    assert all(abs(kept[rows] / 500 - 1) < 0.2 for rows in range(1, QUERIES))
    assert abs(kept[QUERIES] / 3_500 - 1) < 0.1
    encoder.eval()
    assert encoder.leave_out(embeddings) is embeddings
    encoder.nested_dropout = 0.0
    encoder.train()
    torch.manual_seed(0)
    assert encoder.leave_out(embeddings) is embeddings
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(()))  # off, it takes no random number: earlier runs' dropout stays the same
    encoder.eval()


@pytest.mark.parametrize(
    ("family", "conditioning"),
    [("xl", "text_encoder"), ("3", "direct"), ("3", "text_encoder"), ("3_without_t5", "direct")],
)
def test_every_decoder_takes_fewer_rows(folders, tiny_components, pixels, family, conditioning):
    florence2, settings = str(tiny_components / "florence2"), DecoderSettings(conditioning, 64)
    model = VLVAutoEncoder.from_components(
        str(folders / family), florence2, settings, EncoderSettings(QUERIES, resolution=128)
    )
    sampled = model.decoder.sample_noise_and_timesteps(sample_generators(0, [0, 1]))
    model.encoder.use_first(1)
    one = model(*pixels, sampled)
    model.encoder.use_first(None)
    assert one.isfinite().all()
    assert not torch.allclose(one, model(*pixels, sampled))


def test_captions_and_pictures_from_fewer_rows(model, tiny_components, tmp_path):
    image = Image.new("RGB", (70, 90), "red")
    model.save_pretrained(tmp_path / "stage1")
    captioner = new_captioner(tmp_path / "stage1", tiny_components / "qwen")
    for part in (model, captioner):
        part.encoder.use_first(1)
    try:
        assert model.reconstruct([image], num_inference_steps=2)[0].size == (64, 64)
        assert len(captioner.caption([image], num_beams=1, max_new_tokens=4)) == 1
        assert captioner.prefix(captioner.embed(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))).shape[1] == 1
    finally:
        model.encoder.use_first(None)
