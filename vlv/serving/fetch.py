"""The image of a request: from a data URL, or downloaded by http within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import httpcore

_REDIRECTS = 5


class ImageError(ValueError):
    """An image that cannot be had; the message is for the client."""


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
        if not self._allow_private and not all(_is_public(address) for address in addresses):
            raise ImageError(f"{host} is a private address, from which this server downloads nothing")
        return await self._backend.connect_tcp(addresses[0], port, *args, **options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise ImageError("only http and https URLs are downloaded")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    return found.is_global and not found.is_multicast and (inner is None or inner.is_global)


class Fetcher:
    """Gives the bytes of images; used by one event loop."""

    def __init__(self, limits: FetchLimits) -> None:
        """Open no connection yet."""
        self._limits = limits
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=64, network_backend=_PublicOnly(limits.allow_private), retries=0
        )

    async def read(self, url: str) -> bytes:
        """The file that a `data:`, http or https URL names.

        Raises:
            ImageError: it cannot be had, or is beyond the limits.
        """
        if url.startswith("data:"):
            return self._decode(url)
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._download(url)
        except TimeoutError:
            raise ImageError(f"the image did not come within {self._limits.seconds:g} seconds") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise ImageError(f"the image cannot be downloaded: {str(error) or type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    def _decode(self, url: str) -> bytes:
        head, comma, body = url.partition(",")
        if not comma:
            raise ImageError("the data URL has no content: give data:image/jpeg;base64,...")
        if len(body) > 4 * self._limits.most_bytes:  # percent signs take three characters a byte at most
            raise self._too_large()
        try:
            content = base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
        except (binascii.Error, ValueError):
            raise ImageError("the data URL is no base64") from None
        if len(content) > self._limits.most_bytes:
            raise self._too_large()
        return content

    async def _download(self, url: str) -> bytes:
        for _ in range(_REDIRECTS):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ImageError("the image's URL is none of http, https and data")
            headers: dict[str | bytes, str | bytes] = {
                "Host": parts.netloc.rpartition("@")[2],
                "User-Agent": "vlv",
                "Accept": "image/*,*/*;q=0.5",
            }
            async with self._pool.stream("GET", url.partition("#")[0], headers=headers) as answer:
                place = dict(answer.headers).get(b"location", dict(answer.headers).get(b"Location"))
                if answer.status in (301, 302, 303, 307, 308) and place:
                    url = urljoin(url, place.decode("latin-1"))
                    continue
                if answer.status != 200:
                    raise ImageError(f"the image's server answered {answer.status}")
                content = bytearray()
                async for part in answer.aiter_stream():
                    content += part
                    if len(content) > self._limits.most_bytes:
                        raise self._too_large()
                return bytes(content)
        raise ImageError(f"the image's URL was redirected {_REDIRECTS} times")

    def _too_large(self) -> ImageError:
        return ImageError(f"the image file is larger than {self._limits.most_bytes / 1e6:g} MB")
