"""A URL as it is sent, and which addresses are public."""

from __future__ import annotations

import ipaddress
import re
import string
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import httpcore

_LONGEST_URL = 8192  # characters; few servers take more
_PORTS = {"http": 80, "https": 443}
# IPv6 that leads to an IPv4 address, which its last 32 bits are: IPv4-compatible, mapped, translated, and NAT64.
_OVER_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # of a network's own (RFC 8215): its inner address may be any


class ImageError(ValueError):
    """An image that cannot be had; the message is for the client."""


class Target(NamedTuple):
    """What is asked for, in ASCII, and how the request's header names the host."""

    url: httpcore.URL
    host: str


def target_of(url: str) -> Target:
    """An http or https URL as it is sent: its host by IDNA, the rest percent-encoded where it is not ASCII.

    Raises:
        ImageError: it is none, or has no host or port that there can be.
    """
    if len(url) > _LONGEST_URL:
        raise ImageError(f"the image's URL is longer than {_LONGEST_URL} characters: give a shorter one")
    try:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ImageError(f"the image's URL {_shown(url)} is none of http, https and data")
        host, port = _ascii_host(parts.hostname), parts.port
        path = _ascii(parts.path or "/") + (f"?{_ascii(parts.query)}" if parts.query else "")
    except ImageError:
        raise
    except ValueError as error:  # as a UnicodeError is, of characters that have no bytes
        raise ImageError(
            f"the image's URL {_shown(url)} cannot be used ({error}): give http(s)://HOST[:PORT]/PATH"
        ) from None
    named = f"[{host}]" if ":" in host else host
    header = named if port in (None, _PORTS[parts.scheme]) else f"{named}:{port}"
    return Target(httpcore.URL(scheme=parts.scheme, host=host, port=port, target=path), header)


def redirected(url: str, location: bytes) -> str:
    """The URL that an answer's `location` means; raises ImageError where it is none."""
    place = location.decode("utf-8", "surrogateescape")
    try:
        return urljoin(url, place)
    except ValueError as error:
        raise ImageError(f"the image's URL was redirected to {_shown(place)}, which cannot be used ({error})") from None


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet; one that leads to an IPv4 address is what that is."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found.is_multicast:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global
    if any(found in network for network in _OVER_IPV4):
        return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF).is_global
    inner = found.sixtofour
    if found.is_site_local or found in _LOCAL_NAT64:
        return False
    return found.is_global and (inner is None or inner.is_global)


def _ascii_host(host: str) -> str:
    """By IDNA 2003, which is Python's own and that of its look-ups of names."""
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("a part of the host is empty, too long, or no name") from None
    if not re.fullmatch(r"[\w.:%~-]+", name, re.ASCII):
        raise ValueError("the host has characters that no host has")
    return name


def _ascii(text: str) -> str:
    """What is visible ASCII stays as it is: the signature of a signed URL is over its characters."""
    return quote(text, safe=string.punctuation, errors="surrogateescape")


def _shown(url: str) -> str:
    return repr(url if len(url) <= 200 else f"{url[:200]}...")
