"""Whether a server may listen where it is asked to, for the commands that are one."""

from __future__ import annotations

import socket

from vlv.cli.entry import BAD_CALL, stop


def require_free(host: str, port: int) -> None:
    """Stop with one line where the port is taken or cannot be used, before models are loaded for nothing."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as place:
                # As the servers themselves do: a port that was left a moment ago is free, and IPv6 is not IPv4 too.
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                place.bind((address[0], port, *address[2:]))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        stop(f"port={port} of {host} cannot be used ({reason}): give another", BAD_CALL)
