"""`vlv serve` before and around its server."""

import contextlib
import random
import signal
import socket

import httpx
import pytest
from fastapi import FastAPI

from vlv.cli import serve
from vlv.cli.ports import require_free
from vlv.config import ServeConfig
from vlv.serving.listening import listen
from vlv.settings import ConfigError, load_config


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as place:
        yield place.getsockname()[1]


def test_a_taken_port_is_said_before_anything_is_loaded(taken, monkeypatch, capsys):
    monkeypatch.setattr(serve, "load_captioner", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(SystemExit) as stopped:
        serve.main(["folder", f"port={taken}"])
    assert stopped.value.code == 2
    assert f"port={taken} of 127.0.0.1 cannot be used (Address already in use): give another" in capsys.readouterr().err


def test_places_that_cannot_be_listened_on(capsys):
    require_free("127.0.0.1", _free())
    for host, port in (("no.such.host.invalid", 8000), ("203.0.113.1", 8000), ("127.0.0.1", 99999)):
        with pytest.raises(SystemExit):
            require_free(host, port)
        assert f"port={port} of {host} cannot be used (" in capsys.readouterr().err


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_ipv6_is_looked_at_too():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as place:
        port = place.getsockname()[1]
        with pytest.raises(SystemExit):
            require_free("::1", port)
    require_free("::1", port)


def _free():
    """A port below those that the system deals to whoever asks for any: no other process takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def test_it_is_said_once_clients_can_connect():
    port, answers = _free(), []

    def on_ready():
        socket.create_connection(("127.0.0.1", port), 5).close()
        answers.append("ready")
        signal.raise_signal(signal.SIGINT)

    listen(FastAPI(), "127.0.0.1", port, 5, on_ready)
    assert answers == ["ready"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")


def test_it_is_not_said_of_a_port_that_is_taken(taken):
    with pytest.raises(SystemExit):
        listen(FastAPI(), "127.0.0.1", taken, 5, lambda: pytest.fail("it does not listen"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["token=secret"], "unknown key 'token'"),  # a secret there would be seen by everybody who lists processes
        (["port=65536"], "port=65536 cannot be used: give at most 65535"),
        (["max_new_tokens=0"], "max_new_tokens=0 cannot be used: give at least 1, or null"),
        (["max_image_mb=50", "max_waiting_mb=101"], "max_waiting_mb=101 cannot be used: give at least 102"),
    ],
)
def test_settings_that_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        load_config(ServeConfig, None, ["ckpt_dir=folder", *given])


def test_the_token_is_the_environments(monkeypatch):
    found = {}
    monkeypatch.setenv("VLV_API_TOKEN", "secret")
    monkeypatch.setattr(serve, "load_captioner", lambda *_, **__: Captioner())
    monkeypatch.setattr("vlv.serving.app.create_app", lambda _, __, settings: found.update(token=settings.token))
    monkeypatch.setattr("vlv.serving.listening.listen", lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        serve.main(["folder", f"port={_free()}"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == {"token": "secret"}


class Captioner:
    eos_token_id, image_processor = 1, None

    class config:  # noqa: N801
        pad_token_id = 0
