"""The bytes of a URL or of a command's output, read once from start to end: with time-outs, retries and a clear stop.

What cannot be had is an error that ends the run, and never a shard that one process skips: the others would not know of
it, and every later position would hold different samples for different processes.
"""

from __future__ import annotations

import http.client
import io
import logging
import select
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP answers after which another try may do better
_ERRORS = (OSError, http.client.HTTPException)  # urllib's and a socket's, time-outs included
_log = logging.getLogger(__name__)


class StreamBrokenError(ValueError):
    """A stream that cannot be read on; the message names it and the reason."""


class ByteStream(Protocol):
    """What tarfile reads from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end; raises StreamBrokenError."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long a stream is waited for.

    timeout: seconds without a byte.
    retries: at one place, each after twice the pause of the one before; those of the next place are new ones.
    pause: seconds before the first of them.
    """

    timeout: float = 60.0
    retries: int = 5
    pause: float = 1.0


@contextmanager
def open_bytes(url: str, patience: Patience) -> Iterator[ByteStream]:
    """Open a URL or `pipe:` command for reading from start to end."""
    stream = _Command(url, patience) if url.startswith("pipe:") else _Download(url, patience)
    try:
        yield stream
    finally:
        stream.close()


class _Command:
    """The output of a shell command. It cannot be continued, so that it has no retries."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._timeout = url, patience.timeout
        command = url.removeprefix("pipe:")
        self._process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout

    def read(self, size: int, /) -> bytes:
        if not select.select([self._output], [], [], self._timeout)[0]:
            raise StreamBrokenError(f"{self._url} gave nothing for {self._timeout:g} s")
        data = self._output.read(size)
        if not data and self._process.wait():
            raise StreamBrokenError(f"{self._url} ended with status {self._process.returncode}")
        return data

    def close(self) -> None:
        self._output.close()
        self._process.terminate()
        self._process.wait()


class _Download:
    """A URL's content. A connection that breaks is made anew from the byte where it broke."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._patience = url, patience
        self._position = 0
        self._response: http.client.HTTPResponse | None = None
        self._end: int | None = None  # the length, where the server tells it

    def read(self, size: int, /) -> bytes:
        pause = self._patience.pause
        for tries_left in range(self._patience.retries, -1, -1):
            try:
                return self._read(size)
            except _ERRORS as error:
                self.close()
                if not tries_left or (isinstance(error, urllib.error.HTTPError) and error.code not in _PASSING):
                    raise StreamBrokenError(f"{self._url} cannot be read at byte {self._position}: {error}") from None
                _log.warning("%s: %s; trying again in %g s", self._url, error, pause)
                time.sleep(pause)
                pause *= 2
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _read(self, size: int) -> bytes:
        if self._response is None:
            self._response = self._connect()
        data = self._response.read(size)
        if not data and self._end is not None and self._position < self._end:
            raise ConnectionError(f"the connection ended after {self._position} of {self._end} bytes")
        self._position += len(data)
        return data

    def _connect(self) -> http.client.HTTPResponse:
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        request = urllib.request.Request(self._url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self._patience.timeout)
        length = response.headers.get("Content-Length")
        if self._position and response.status != 206:  # a server without ranges gives it all again
            _skip(response, self._position)
        elif not self._position:
            self._end = None if length is None else int(length)
        return response


def _skip(response: IO[bytes] | http.client.HTTPResponse, count: int) -> None:
    while count:
        data = response.read(min(count, io.DEFAULT_BUFFER_SIZE))
        if not data:
            raise ConnectionError("the content is shorter than before")
        count -= len(data)
