"""`vlv serve` on the small world's captioner, asked by the official client."""

import base64
import io
import sys

import openai
import pytest

from tests.servers import answers, served
from vlv import VLVCaptioner
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

CAPTIONER = assets_folder() / "tiny" / "trained" / "captioner"


@pytest.fixture(scope="module")
def pictures():
    return [render(make_scene("test", number), number) for number in range(6)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    def command(port):
        return [sys.executable, "-m", "vlv", "serve", str(CAPTIONER), f"port={port}"]

    def is_up(port, _):
        return answers(f"http://127.0.0.1:{port}/healthz")

    with served(tmp_path_factory.mktemp("serve"), command, is_up, 60, VLV_API_TOKEN="secret") as port:
        yield f"http://127.0.0.1:{port}/v1"


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
    for picture, caption in zip(pictures, expected, strict=True):
        answer = client.chat.completions.create(model="captioner", messages=messages(picture))
        assert answer.choices[0].message.content == caption
        assert answer.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model="captioner", messages=messages(pictures[0]), stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == expected[0]
    assert sum(map(bool, parts)) > 5, "it comes in parts"


def test_sampled_captions_are_those_of_their_seed(address, pictures):
    client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
    ask = {"model": "captioner", "messages": messages(pictures[0]), "temperature": 1.0, "n": 2}
    first, again = (client.chat.completions.create(**ask, seed=3).choices for _ in range(2))
    assert [one.message.content for one in first] == [one.message.content for one in again]
