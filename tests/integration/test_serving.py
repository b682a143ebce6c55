"""`vlv serve` on the small world's captioner, asked by the official client."""

import base64
import io
import sys
from contextlib import contextmanager
from itertools import pairwise

import openai
import pytest
from PIL import Image

from tests.servers import answers, served
from vlv import VLVCaptioner
from vlv.models.loading import load_captioner
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

CAPTIONER = assets_folder() / "tiny" / "trained" / "captioner"


@pytest.fixture(scope="module")
def pictures():
    return [render(make_scene("test", number), number) for number in range(6)]


@contextmanager
def serving(folder, *settings):
    def command(port):
        return [sys.executable, "-m", "vlv", "serve", str(CAPTIONER), f"port={port}", *settings]

    def is_up(port, said):
        up = f"serving captioner on http://127.0.0.1:{port}/v1" in said
        assert not up or answers(f"http://127.0.0.1:{port}/healthz"), "it is said once clients can connect"
        return up

    with served(folder, command, is_up, 60, VLV_API_TOKEN="secret") as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve")) as address:
        yield address


def messages(picture):
    content = io.BytesIO()
    picture.save(content, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_served_captions_are_the_captioners_own(address, pictures):
    client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
    captioner = VLVCaptioner.from_pretrained(CAPTIONER)
    expected = captioner.caption(pictures, num_beams=1)
    (model,) = client.models.list()
    assert model.id == "captioner"
    assert client.models.retrieve("captioner") == model
    for picture, caption in zip(pictures, expected, strict=True):
        answer = client.chat.completions.create(model="captioner", messages=messages(picture))
        assert answer.choices[0].message.content == caption
        assert answer.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model="captioner", messages=messages(pictures[0]), stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == expected[0]
    assert sum(map(bool, parts)) > 5, "it comes in parts"


def test_a_caption_is_cut_where_it_is_to_be_and_never_longer_than_the_captioners(address, pictures):
    client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
    ask = {"model": "captioner", "messages": messages(pictures[0])}
    whole = client.chat.completions.create(**ask)
    assert client.chat.completions.create(**ask, max_tokens=10**9).choices == whole.choices
    cut = client.chat.completions.create(**ask, max_completion_tokens=5)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)
    assert whole.choices[0].message.content.startswith(cut.choices[0].message.content)


def test_sampled_captions_are_those_of_their_seed(address, pictures):
    client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
    ask = {"model": "captioner", "messages": messages(pictures[0]), "temperature": 1.0, "n": 2}
    first, again = (client.chat.completions.create(**ask, seed=3).choices for _ in range(2))
    assert [one.message.content for one in first] == [one.message.content for one in again]


def test_a_quantised_captioner_with_beams_is_served(pictures, tmp_path):
    pytest.importorskip("bitsandbytes")
    doubtful = [Image.blend(first, second, 0.5) for first, second in pairwise(pictures)]
    expected = load_captioner(CAPTIONER, quantize="int4").caption(doubtful, num_beams=3)
    assert expected != VLVCaptioner.from_pretrained(CAPTIONER).caption(doubtful, num_beams=3)
    with serving(tmp_path, "quantize=int4", "num_beams=3", "precision=fp32") as address:
        client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
        for picture, caption in zip(doubtful, expected, strict=True):
            answer = client.chat.completions.create(model="captioner", messages=messages(picture))
            assert answer.choices[0].message.content == caption
        stream = client.chat.completions.create(model="captioner", messages=messages(doubtful[0]), stream=True)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert [part for part in parts if part] == expected[:1], "beams are known at the end alone"
