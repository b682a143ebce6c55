"""What one request can cost the others: tokens, the engine's time, memory, and defects."""

import asyncio
import json
import socket
import threading
import time

import httpx
import openai
import pytest

from vlv.data.transforms import decode_image

from .serving import RED, ColourEngine, ask, client, data_url, jpeg, serving


@pytest.mark.parametrize(
    ("setting", "asked", "expected"),
    [
        (None, {}, 50),
        (None, {"max_tokens": 10**12}, 50),
        (None, {"max_completion_tokens": 51, "max_tokens": 5}, 50),
        (None, {"max_tokens": 5}, 5),
        (20, {}, 20),
        (20, {"max_tokens": 21}, 20),
        (200, {"max_tokens": 10**12}, 200),
    ],
)
def test_no_caption_is_longer_than_may_be(setting, asked, expected):
    engine = ColourEngine()
    with serving(engine, max_new_tokens=setting) as address:
        client(address).chat.completions.create(model="colours", messages=ask(data_url(jpeg())), **asked)
    assert [one.max_new_tokens for one in engine.asked] == [expected]


class FirstIsEndless(ColourEngine):
    """Its first batch goes on until nobody waits for it."""

    def run(self, pixels, asked, seeds, on_text=None, is_over=None):
        until = time.monotonic() + 8
        while not self.batches and time.monotonic() < until and not (is_over and is_over(0)):
            time.sleep(0.01)
        return super().run(pixels, asked, seeds, on_text, is_over)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_given_up_frees_the_engine(stream):
    ask_for = {"model": "colours", "messages": ask(data_url(jpeg()))}
    with serving(FirstIsEndless(), request_timeout=1) as address:
        with pytest.raises(openai.APIError, match="not done within 1 seconds"):
            for _ in client(address).chat.completions.create(**ask_for, stream=stream):
                pass
        assert client(address).chat.completions.create(**ask_for).choices[0].message.content == RED


@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_is_logged_and_its_client_told_no_more(stream, monkeypatch, caplog):
    class Broken(ColourEngine):
        def run(self, *_):
            raise RuntimeError("a secret")

    ask_for = {"model": "colours", "messages": ask(data_url(jpeg()))}
    with serving(Broken()) as address:
        told = httpx.post(f"{address}/v1/chat/completions", json={**ask_for, "stream": stream})
        metrics = httpx.get(f"{address}/metrics").text
    assert told.status_code == (200 if stream else 500), "a stream has begun"
    error = {"message": "the server failed at this request: its log says why", "type": "server_error"}
    content = told.json() if not stream else json.loads(told.text.split("data: ")[-1])
    assert content == {"error": {**error, "param": None, "code": None}}
    assert 'vlv_requests_total{status="500"} 1.0' in metrics
    assert "a secret" in caplog.text


def test_a_defect_before_the_engine_is_told_too(monkeypatch, caplog):
    monkeypatch.setattr("vlv.serving.images.decode_image", lambda *_: None + 1)
    with serving() as address:
        with pytest.raises(openai.InternalServerError, match="its log says why"):
            client(address).chat.completions.create(model="colours", messages=ask(data_url(jpeg())))
        assert 'vlv_requests_total{status="500"} 1.0' in httpx.get(f"{address}/metrics").text
    assert "TypeError" in caplog.text


def test_a_client_that_goes_before_its_request_is_whole_is_no_defect(caplog):
    with serving() as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as ours:
            ours.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
            time.sleep(0.2)
        time.sleep(0.2)
        metrics = httpx.get(f"{address}/metrics").text
    assert 'status="500"' not in metrics
    assert "vlv_requests_in_work 0.0" in metrics
    assert not caplog.records


def test_as_many_images_are_decoded_at_once_as_there_are_cores(monkeypatch):
    now, most, lock = [0], [0], threading.Lock()

    def slow(*given):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.3)
        with lock:
            now[0] -= 1
        return decode_image(*given)

    monkeypatch.setattr("vlv.serving.images.decode_image", slow)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    with serving(request_timeout=0.8) as address:

        async def together():
            # Some are given up while they are decoded, which goes on.
            ours = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
            calls = [ours.chat.completions.create(model="colours", messages=ask(data_url(jpeg()))) for _ in range(9)]
            first = await asyncio.gather(*calls, return_exceptions=True)
            return [one.status_code if isinstance(one, Exception) else 200 for one in first]

        codes = asyncio.run(together())
        assert client(address).chat.completions.create(model="colours", messages=ask(data_url(jpeg()))).choices
    assert set(codes) == {200, 408}
    assert most == [2]
