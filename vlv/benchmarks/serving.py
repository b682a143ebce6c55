"""A folder served over HTTP on this machine, by a process of its own, whose time is not counted.

It needs aiohttp, which the extra `remote` brings with what reads from it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files, also by ranges, as long as the context lasts; yields the URL."""
    command = [sys.executable, "-m", __spec__.name, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def main() -> None:
    """Serve the folder of the command line at a free port, whose number is printed."""
    from aiohttp import web

    application = web.Application()
    application.router.add_static("/", sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        web.run_app(application, sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main()
