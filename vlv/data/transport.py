"""The bytes of a URL or of a command's output, read once from start to end: with time-outs, retries and a clear stop.

What cannot be had is an error that ends the run, and never a shard that one process skips: the others would not know of
it, and every later position would hold different samples for different processes.
"""

from __future__ import annotations

import http.client
import io
import logging
import select
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol, TypeVar

from vlv.data.pipeline import Pipeline
from vlv.redaction import redact

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP answers after which another try may do better
_BLOCK = 512  # bytes of a tar's unit; two of zeros end one
_MAGIC = slice(257, 262)  # where a tar's first block says what it is
_ERRORS = (OSError, http.client.HTTPException)  # urllib's and a socket's, time-outs included
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


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


def persist(
    attempt: Callable[[], _Result],
    patience: Patience,
    name: str,
    errors: tuple[type[Exception], ...],
    may_pass: Callable[[Exception], bool],
) -> _Result:
    """Return what `attempt` does, which is tried again with growing pauses after those of `errors` that may pass.

    Args:
        name: of what is read, for the warning of each further try.

    Raises:
        Exception: the last try's error, or one that will not pass.
    """
    pause = patience.pause
    for tries_left in range(patience.retries, -1, -1):
        try:
            return attempt()
        except errors as error:
            if not tries_left or not may_pass(error):
                raise
            reason = redact(str(error)) or type(error).__name__  # some name the whole URL
            _log.warning("%s: %s; trying again in %g s", redact(name), reason, pause)
            time.sleep(pause)
            pause *= 2
    raise AssertionError("the last try returns or raises")


@contextmanager
def open_bytes(url: str, patience: Patience) -> Iterator[ByteStream]:
    """Open a URL or `pipe:` command for reading from start to end."""
    stream = _Command(url, patience) if url.startswith("pipe:") else _Download(url, patience)
    try:
        yield stream
    finally:
        stream.close()


class _Command:
    """The output of a command. It cannot be continued, so that it has no retries.

    Messages end with the command: what is written down hides a command's secrets, and cannot know where it ends.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._timeout = url, patience.timeout
        try:
            self._pipeline = Pipeline(url.removeprefix("pipe:"))
        except (ValueError, OSError) as error:
            raise StreamBrokenError(f"the command cannot be run ({error}): {url}") from None

    def read(self, size: int, /) -> bytes:
        if not select.select([self._pipeline.output], [], [], self._timeout)[0]:
            raise StreamBrokenError(f"nothing came for {self._timeout:g} s from {self._url}")
        data = self._pipeline.output.read(size)
        if not data and (status := self._pipeline.failure()):
            raise StreamBrokenError(f"status {status} at the end of {self._url}")
        return data

    def close(self) -> None:
        self._pipeline.close()


class _Download:
    """A URL's content. A connection that breaks is made anew from the byte where it broke."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._patience = url, patience
        self._position = 0
        self._response: http.client.HTTPResponse | None = None
        self._end: int | None = None  # the length, where the server tells it
        self._head = self._tail = b""  # the first and last bytes of what came

    def read(self, size: int, /) -> bytes:
        try:
            return persist(lambda: self._read(size), self._patience, self._url, _ERRORS, _may_pass)
        except _ERRORS as error:
            raise StreamBrokenError(f"{self._url} cannot be read at byte {self._position}: {error}") from None

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _read(self, size: int) -> bytes:
        try:
            if self._response is None:
                self._response = self._connect()
            data = self._response.read(size)
            if not data and self._end is not None and self._position < self._end:
                raise ConnectionError(f"the connection ended after {self._position} of {self._end} bytes")
            if not data and self._end is None and self._head[_MAGIC] == b"ustar" and self._tail.strip(b"\0"):
                # A server that tells no length ends by closing, as a broken connection does.
                raise ConnectionError(
                    f"the connection ended after {self._position} bytes, before the end of the archive"
                )
        except _ERRORS:
            self.close()
            raise
        self._position += len(data)
        if self._end is None:
            self._head += data[: max(0, _BLOCK - len(self._head))]
            self._tail = (self._tail + data[-2 * _BLOCK :])[-2 * _BLOCK :]
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


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, urllib.error.HTTPError) or error.code in PASSING


def _skip(response: IO[bytes] | http.client.HTTPResponse, count: int) -> None:
    while count:
        data = response.read(min(count, io.DEFAULT_BUFFER_SIZE))
        if not data:
            raise ConnectionError("the content is shorter than before")
        count -= len(data)
