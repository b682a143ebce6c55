"""The image of a request: from a data URL, or downloaded by http within limits."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpcore

from vlv.serving.urls import ImageError, is_public, redirected, target_of

_REDIRECTS = 5


@dataclass(frozen=True)
class FetchLimits:
    """What is downloaded: bytes at most, seconds at most, and whether from private addresses too."""

    most_bytes: int
    seconds: float
    allow_private: bool = False


class _PublicOnly(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone. The address that was looked at is the one that is connected to, so a name
    cannot lead elsewhere a moment later.
    """

    def __init__(self, allow_private: bool) -> None:
        # Under an interface of its own: the class has methods of httpcore's that its stubs do not say.
        self._backend: Any = httpcore.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise ImageError(f"the host {host} is not known") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise ImageError(f"{host} is a private address, from which this server downloads nothing")
        return await self._backend.connect_tcp(addresses[0], port, *args, **options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise ImageError("only http and https URLs are downloaded")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class Fetcher:
    """Gives the bytes of images; used by one event loop."""

    def __init__(self, limits: FetchLimits) -> None:
        """Open no connection yet."""
        self._limits = limits
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=64, network_backend=_PublicOnly(limits.allow_private), retries=0
        )

    async def read(self, url: str, take: Callable[[int], None]) -> bytes:
        """The file that a `data:`, http or https URL names.

        Args:
            take: told the number of each bytes that are downloaded; what it raises ends the download.

        Raises:
            ImageError: it cannot be had, or is beyond the limits.
        """
        if url.startswith("data:"):
            return self._decode(url)
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._download(url, take)
        except TimeoutError:
            raise ImageError(f"the image did not come within {self._limits.seconds:g} seconds") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise ImageError(f"the image cannot be downloaded: {str(error) or type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    def _decode(self, url: str) -> bytes:
        head, _, body = url.partition(",")
        try:
            if not head.endswith(";base64"):  # Python would take seconds and gigabytes to decode many percent signs
                raise ValueError
            content = base64.b64decode(body, validate=True)
        except ValueError:  # of characters that are not ASCII, too
            raise ImageError("the data URL is no base64: give data:image/jpeg;base64,...") from None
        if len(content) > self._limits.most_bytes:
            raise self._too_large()
        return content

    async def _download(self, url: str, take: Callable[[int], None]) -> bytes:
        for _ in range(_REDIRECTS):
            target = target_of(url)
            headers: dict[str | bytes, str | bytes] = {
                "Host": target.host,
                "User-Agent": "vlv",
                "Accept": "image/*,*/*;q=0.5",
            }
            async with self._pool.stream("GET", target.url, headers=headers) as answer:
                place = {name.lower(): value for name, value in answer.headers}.get(b"location")
                if answer.status in (301, 302, 303, 307, 308) and place:
                    url = redirected(url, place)
                    continue
                if answer.status != 200:
                    raise ImageError(f"the image's server answered {answer.status}")
                content = bytearray()
                async for part in answer.aiter_stream():
                    content += part
                    take(len(part))
                    if len(content) > self._limits.most_bytes:
                        raise self._too_large()
                return bytes(content)
        raise ImageError(f"the image's URL was redirected {_REDIRECTS} times")

    def _too_large(self) -> ImageError:
        return ImageError(f"the image file is larger than {self._limits.most_bytes / 1e6:g} MB")
