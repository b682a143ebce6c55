"""The captioner as an engine: what ends its captions."""

import pytest

from vlv import VLVCaptioner
from vlv.resources import assets_folder
from vlv.serving.batching import Asked
from vlv.serving.engine import CaptionEngine
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene


@pytest.fixture(scope="module")
def captioner():
    return VLVCaptioner.from_pretrained(assets_folder() / "tiny" / "trained" / "captioner")


@pytest.fixture(scope="module")
def pixels(captioner):
    pictures = [render(make_scene("test", number), number) for number in range(2)]
    return [captioner.image_processor(picture)["encoder_pixels"] for picture in pictures]


def test_the_longest_caption_is_that_of_the_generation_config(captioner):
    engine = CaptionEngine(captioner)
    assert engine.max_new_tokens == 78
    longest, captioner.generation_config.max_new_tokens = captioner.generation_config.max_new_tokens, None
    try:
        assert engine.max_new_tokens == captioner.config.max_caption_tokens + 1
    finally:
        captioner.generation_config.max_new_tokens = longest


@pytest.mark.parametrize("asked", [Asked(), Asked(num_beams=3), Asked(temperature=1.0, count=2)], ids=str)
def test_a_batch_ends_with_the_last_one_that_is_waited_for(captioner, pixels, asked):
    engine, calls = CaptionEngine(captioner), []

    def over_after(steps):
        """Each image from a step of its own on."""
        calls.clear()

        def is_over(image):
            calls.append(image)
            return calls.count(image) >= steps[image]

        return is_over

    seeds = [[1, 2], [3, 4]]
    whole = engine.run(pixels, asked, seeds, is_over=over_after((1000, 1000)))
    assert whole == engine.run(pixels, asked, seeds)
    assert len(calls) > 2 * 20
    engine.run(pixels, asked, seeds, is_over=over_after((3, 5)))
    assert calls.count(0) == calls.count(1) == 5
    one = engine.run(pixels, asked, seeds, is_over=over_after((1000, 3)))
    assert one[0] == whole[0], "who waits gets the whole caption"
    assert max(said.tokens for said in one[1]) <= 3


def test_a_stream_ends_with_its_reader(captioner, pixels):
    parts = []
    said = CaptionEngine(captioner).run(pixels[:1], Asked(), [[]], lambda *part: parts.append(part), lambda _: True)
    assert said[0][0].tokens == 1
    assert not said[0][0].ended
