"""What each event of the page does, without the page: values in, values out."""

import pytest

from vlv.demo.handlers import KEEP, Handlers, OneImage, TwoImages
from vlv.demo.model import Sampling
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

SAMPLING = (1.5, 2, 3)


class StandIn:
    """A model that says what it was asked for."""

    draws = reads_texts = True

    def __init__(self):
        self.asked = []

    def caption(self, image, rows):
        self.asked.append(("caption", image.size, rows))
        yield "a red"
        yield "a red circle"

    def reconstruct(self, image, sampling, rows):
        self.asked.append(("reconstruct", image.size, sampling, rows))
        return "drawn"

    def draw_text(self, text, sampling):
        self.asked.append(("draw_text", text, sampling))
        return "from text"

    def cuts(self, text):
        return len(text) > 100

    def compose(self, first, second, rows, join, sampling):
        self.asked.append(("compose", rows, join, sampling))
        if rows > 10:
            raise ValueError("rows=11 cannot be used")
        return "composed"


@pytest.fixture
def model():
    return StandIn()


@pytest.fixture
def handlers(model):
    return Handlers(model, "ddim", max_image_mib=1)


@pytest.fixture
def upload(tmp_path):
    def make(content=None, name="picture.png"):
        path = tmp_path / "stored"
        if content is None:
            render(make_scene("test", 0), 0).save(path, format="PNG")
        else:
            path.write_bytes(content)
        return {"path": str(path), "orig_name": name}

    return make


def test_a_caption_streams_and_pictures_follow(model, handlers, upload):
    found = list(handlers.show(upload(), 7.0, *SAMPLING))
    assert found == [
        OneImage(note="", caption="", drawn=None, from_text=None),
        OneImage(caption="a red"),
        OneImage(caption="a red circle"),
        OneImage(drawn="drawn"),
        OneImage(note="", from_text="from text"),
    ]
    sampling = Sampling(3, 1.5, 2, "ddim")
    assert model.asked == [
        ("caption", (96, 96), 7),
        ("reconstruct", (96, 96), sampling, 7),
        ("draw_text", "a red circle", sampling),
    ]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "the file is empty"), (b"no picture", "not an image of a known format")]
)
def test_a_file_that_cannot_be_read_is_named_and_taken_off(model, handlers, upload, content, reason):
    (found,) = handlers.show(upload(content, "notes.png"), 10, *SAMPLING)
    assert found.note.startswith("notes.png cannot be read: ")
    assert reason in found.note
    assert found[1:] == (None, "", None, None)
    assert not model.asked
    # Taking it off is an event of its own, which leaves the note where it is.
    (after,) = handlers.show(None, 10, *SAMPLING)
    assert after.note is KEEP


def test_an_image_that_is_too_large_is_not_decoded(handlers, tmp_path):
    from PIL import Image

    Image.new("1", (4000, 4000)).save(tmp_path / "large.png")
    (found,) = handlers.show({"path": str(tmp_path / "large.png")}, 10, *SAMPLING)
    assert found.note.startswith("large.png cannot be read: ")
    assert "MiB" in found.note


def test_without_a_decoder_there_is_the_caption_alone(model, handlers, upload):
    model.draws = model.reads_texts = False
    *_, last = handlers.show(upload(), 10)
    assert last == OneImage(caption="a red circle")


def test_other_settings_draw_again_without_a_new_caption(model, handlers, upload):
    assert list(handlers.draw(upload(), "my own words", 10, *SAMPLING)) == [
        OneImage(drawn="drawn"),
        OneImage(note="", from_text="from text"),
    ]
    assert [call[0] for call in model.asked] == ["reconstruct", "draw_text"]
    assert list(handlers.draw(None, "  ", 10, *SAMPLING)) == []


def test_a_text_that_is_cut_off_is_said(handlers):
    (found,) = handlers.draw_text("a red circle " * 20, *SAMPLING)
    assert "its end was left out" in found.note
    assert found.from_text == "from text"


def test_two_images_are_composed_once_both_are_there(model, handlers, upload):
    assert handlers.compose(upload(), None, 4, "in place", *SAMPLING) == TwoImages(composed=None)
    assert not model.asked
    assert handlers.compose(upload(), upload(), 4, "in place", *SAMPLING) == TwoImages(note="", composed="composed")
    assert model.asked == [("compose", 4, "in place", Sampling(3, 1.5, 2, "ddim"))]
    assert handlers.compose(upload(), upload(), 11, "in place", *SAMPLING) == TwoImages(note="rows=11 cannot be used")


def test_the_one_of_two_that_cannot_be_read_is_taken_off(handlers, upload, tmp_path):
    bad = {"path": str(tmp_path / "gone"), "orig_name": "gone.png"}
    found = handlers.compose(upload(), bad, 4, "in place", *SAMPLING)
    assert found.note.startswith("gone.png cannot be read: ")
    assert (found.first, found.second, found.composed) == (KEEP, None, None)
    found = handlers.compose(bad, upload(), 4, "in place", *SAMPLING)
    assert (found.first, found.second, found.composed) == (None, KEEP, None)
