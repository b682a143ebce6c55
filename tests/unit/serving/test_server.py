import asyncio
import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from .serving import RED, ColourEngine, ask, client, data_url, float_tiff, jpeg, serving


@pytest.fixture(scope="module")
def server():
    with serving(max_image_bytes=100_000, allow_private=True, download_timeout=1.0) as address:
        yield address


# Headers are written as latin-1, so these are UTF-8.
REDIRECTS = {
    "/beyond": "http://[",
    "/beyond/port": "http://127.0.0.1:99999/",
    "/beyond/host": f"http://{'a' * 64}.com/",
    "/utf8": "/f\u00f6to%20(1)%2F.png?\u00fc=1&b=|".encode().decode("latin-1"),
}


class Images(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(3)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to"))
            self.end_headers()
            return
        if self.path in REDIRECTS:
            self.send_response(302)
            self.send_header("LOCATION", REDIRECTS[self.path])
            self.end_headers()
            return
        content = {
            "/red.png": jpeg(),
            "/f%C3%B6to%20(1)%2F.png?%C3%BC=1&b=|": jpeg(),
            "/large": b"x" * 200_000,
            "/page.png": b"<html>no image</html>",
        }.get(self.path)
        self.send_response(200 if content else 404)
        self.end_headers()
        with suppress(ConnectionError):  # of a client that has enough
            self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def images():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


def test_a_data_url_and_an_http_url_are_captioned(server, images):
    odd = f"{images}/föto (1)%2F.png?ü=1&b=|#part"
    for url in (data_url(jpeg()), f"{images}/red.png", f"{images}/to/red.png", odd, f"{images}/utf8"):
        answer = client(server).chat.completions.create(model="colours", messages=ask(url))
        assert answer.choices[0].message.content == RED
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert [model.id for model in client(server).models.list()] == ["colours"]


def test_captions_are_sampled_by_seed_and_cut_by_length(server):
    url = data_url(jpeg())
    ask_for = client(server).chat.completions.create
    several = [
        [choice.message.content for choice in ask_for(
            model="colours", messages=ask(url), temperature=0.7, n=3, seed=5).choices]
        for _ in range(2)
    ]  # fmt: skip
    assert several[0] == several[1]
    assert len(set(several[0])) == 3
    assert ask_for(model="colours", messages=ask(url), max_tokens=3).choices[0].finish_reason == "length"


def test_a_caption_is_streamed(server):
    chunks = list(
        client(server).chat.completions.create(
            model="colours", messages=ask(data_url(jpeg())), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == RED
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 2
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-2].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing.png", "answered 404"),
        ("/large", "larger than 0.1 MB"),
        ("/slow", "did not come within 1 seconds"),
        ("/page.png", "cannot be read"),
        ("/to/to/to/to/to/to/red.png", "redirected 5 times"),
        ("/beyond", "was redirected to 'http://\\[', which cannot be used"),
        ("/beyond/port", r"99999/' cannot be used \(Port out of range"),
        ("/beyond/host", "a part of the host is empty, too long"),
    ],
)
def test_an_image_that_cannot_be_had_is_the_requests_fault(server, images, path, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        client(server).chat.completions.create(model="colours", messages=ask(images + path))


@pytest.mark.parametrize(
    ("messages", "more", "reason"),
    [
        (ask("ftp://host/a.png"), {}, "none of http, https and data"),
        (ask("data:image/png;base64,%%%"), {}, "no base64"),
        (ask(data_url(jpeg()).replace(";base64", "")), {}, "no base64"),
        (ask("data:image/png;base64,ö"), {}, "no base64"),
        (ask("http://["), {}, r"'http://\[' cannot be used"),
        (ask("http://127.0.0.1:99999/a.png"), {}, r"cannot be used \(Port out of range"),
        (ask("http://127.0.0.1:abc/a.png"), {}, r"cannot be used \(Port could not be cast"),
        (ask("http://a..b/a.png"), {}, r"a part of the host is empty.* give http\(s\)://HOST"),
        (ask(f"http://{'a' * 64}.com/a.png"), {}, "a part of the host is empty, too long"),
        (ask("http://föto.invalid/ä"), {}, "host xn--fto-sna.invalid is not known"),
        (ask(f"http://{'ö' * 300}.invalid/"), {}, "a part of the host is empty, too long"),
        (ask("http://a b/a.png"), {}, "characters that no host has"),
        (ask("http://a\0b/a.png"), {}, "characters that no host has"),
        (ask(f"http://127.0.0.1/{'a' * 9000}"), {}, "longer than 8192 characters"),
        (ask(data_url(float_tiff())), {}, "cannot be read"),
        (ask("http://no.such.host.invalid/a.png"), {}, "is not known"),
        ([{"role": "user", "content": "hello"}], {}, "0 images were given"),
        ([{"role": "user", "content": ask(data_url(jpeg()))[0]["content"] * 2}], {}, "2 images were given"),
        (ask(data_url(jpeg())), {"n": 2}, "give a temperature"),
        (ask(data_url(jpeg())), {"max_tokens": 0}, "max_tokens: "),
        (ask(data_url(b"x" * 120_000)), {}, "larger than 0.1 MB"),
    ],
)
def test_a_bad_request_is_400_with_its_reason(server, messages, more, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        client(server).chat.completions.create(model="colours", messages=messages, **more)


def test_of_a_chat_the_last_image_counts(server):
    red, blue = ask(data_url(jpeg("red"))), ask(data_url(jpeg("blue")))
    said = [{"role": "assistant", "content": [{"type": "text", "text": "A red one."}]}]
    for messages, expected in (
        (red + said + blue, "colour [0, 0, 255]"),
        (blue + said + red + said + [{"role": "user", "content": "And now?"}], RED),
    ):
        answer = client(server).chat.completions.create(model="colours", messages=messages)
        assert answer.choices[0].message.content == expected


def test_a_model_is_found_by_its_name():
    with serving(model_name="me/colours") as address:
        (listed,) = client(address).models.list()
        assert client(address).models.retrieve("me/colours") == listed
        with pytest.raises(openai.NotFoundError, match="me/colours is") as error:
            client(address).models.retrieve("colours")
        assert error.value.type == "invalid_request_error"


def test_the_bytes_of_waiting_requests_are_bounded(images):
    """Those of bodies that come slowly, and of downloads; all are let go."""
    body = json.dumps({"model": "colours", "messages": ask(data_url(jpeg()))}).encode()
    with serving(max_waiting_bytes=100_000, allow_private=True, max_image_bytes=300_000) as address:
        with socket.create_connection(address.removeprefix("http://").split(":"), 10) as slow:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body) + 90_000}\r\n\r\n"
            slow.sendall(head.encode() + b" " * 90_000)
            time.sleep(0.5)
            with pytest.raises(openai.RateLimitError):
                client(address).chat.completions.create(model="colours", messages=ask(data_url(b"x" * 20_000)))
            with pytest.raises(openai.BadRequestError):  # it is small enough
                client(address).chat.completions.create(model="colours", messages=ask(data_url(b"x")))
            slow.sendall(body)
            assert b" 200 " in slow.recv(100)
        with pytest.raises(openai.RateLimitError):
            client(address).chat.completions.create(model="colours", messages=ask(f"{images}/large"))
        with pytest.raises(openai.BadRequestError):
            client(address).chat.completions.create(model="colours", messages=ask(data_url(b"x" * 60_000)))


def test_other_refusals_have_their_own_codes(server):
    with pytest.raises(openai.NotFoundError, match="colours is"):
        client(server).chat.completions.create(model="gpt", messages=ask(data_url(jpeg())))
    body = httpx.post(f"{server}/v1/chat/completions", content=b"x" * 2_000_000)
    assert body.status_code == 413
    assert httpx.post(f"{server}/v1/chat/completions", content=b"{").status_code == 400
    many = httpx.post(f"{server}/v1/chat/completions", json={"model": "colours", "messages": [{}] * 60_000})
    assert many.status_code == 413
    assert "more than 50000 commas" in many.json()["error"]["message"]


def test_private_addresses_are_refused_unless_allowed(images):
    with serving() as address:
        for url in (
            images,
            images.replace("127.0.0.1", "localhost"),
            "http://169.254.169.254/latest",
            "http://[::1]/a",
        ):
            with pytest.raises(openai.BadRequestError, match="private address"):
                client(address).chat.completions.create(model="colours", messages=ask(f"{url}/red.png"))


def test_a_token_is_asked_for():
    with serving(token="secret") as address:
        with pytest.raises(openai.AuthenticationError):
            client(address, "wrong").models.list()
        with pytest.raises(openai.AuthenticationError):
            client(address, "wrong").chat.completions.create(model="colours", messages=ask(data_url(jpeg())))
        assert client(address, "secret").models.list().data
        assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}


def test_a_full_queue_is_429_and_a_late_answer_408():
    with serving(ColourEngine(seconds=1.0), queue_limit=2, batch_size=1, request_timeout=1.5) as address:

        async def together():
            ours = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
            calls = [ours.chat.completions.create(model="colours", messages=ask(data_url(jpeg()))) for _ in range(4)]
            return await asyncio.gather(*calls, return_exceptions=True)

        found = asyncio.run(together())
    codes = sorted(200 if not isinstance(one, Exception) else one.status_code for one in found)
    assert codes == [200, 408, 429, 429]


def test_clients_that_go_leave_no_place_taken():
    with serving(ColourEngine(seconds=0.3), queue_limit=3) as address:

        async def gone(stream):
            async with httpx.AsyncClient(timeout=0.1) as ours:
                body = {"model": "colours", "messages": ask(data_url(jpeg())), "stream": stream}
                with pytest.raises(httpx.TimeoutException):
                    await ours.post(f"{address}/v1/chat/completions", json=body)

        for stream in (False, True, False, True):
            asyncio.run(gone(stream))
        time.sleep(1.5)
        assert "vlv_requests_in_work 0.0" in httpx.get(f"{address}/metrics").text
        assert client(address).chat.completions.create(model="colours", messages=ask(data_url(jpeg()))).choices


def test_a_stop_finishes_what_was_taken():
    with serving(ColourEngine(seconds=1.0)) as address:
        answers = []
        ours = threading.Thread(
            target=lambda: answers.append(
                client(address).chat.completions.create(model="colours", messages=ask(data_url(jpeg())))
            )
        )
        ours.start()
        time.sleep(0.4)
    ours.join(10)
    assert answers[0].choices[0].message.content == RED


def test_500_requests_of_32_clients_a_tenth_bad(images):
    """Nothing is lost: each good one has its own answer, each bad one a 400, and there is no 500."""
    engine = ColourEngine(seconds=0.005)
    colours = [(value, 255 - value, value // 2) for value in range(0, 250, 5)]
    bad = [data_url(b"broken"), data_url(b"x" * 300_000), f"{images}/slow", f"{images}/missing.png", "nonsense"]
    bad += [data_url(float_tiff()), "http://[", "http://127.0.0.1:99999/", "http://127.0.0.1:abc/", "http://a..b/ö"]
    bad += [f"http://{'a' * 64}.com/", f"http://{'ö' * 64}.com/", f"{images}/föto", f"{images}/beyond"]
    bad += [f"{images}/beyond/port", f"{images}/beyond/host"]

    with serving(engine, allow_private=True, max_image_bytes=200_000, download_timeout=0.3) as address:

        async def one(ours, limit, number):
            async with limit:
                if number % 10 == 3:
                    url, expected = bad[number // 10 % len(bad)], None
                else:
                    colour = colours[number % len(colours)]
                    url, expected = data_url(jpeg(colour)), f"colour {list(colour)}"
                try:
                    answer = await ours.chat.completions.create(model="colours", messages=ask(url))
                except openai.APIStatusError as error:
                    return expected is None and error.status_code == 400
                return answer.choices[0].message.content == expected

        async def together():
            ours = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
            limit = asyncio.Semaphore(32)
            return await asyncio.gather(*(one(ours, limit, number) for number in range(500)))

        assert all(asyncio.run(together()))
        metrics = httpx.get(f"{address}/metrics").text
    assert 'vlv_requests_total{status="200"} 450.0' in metrics
    assert 'vlv_requests_total{status="400"} 50.0' in metrics
    assert 'status="500"' not in metrics
    assert max(engine.batches) > 1
    assert sum(engine.batches) == 450
