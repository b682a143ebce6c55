"""A server as its users start it: a process of its own on a free port, which is stopped by SIGTERM."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager


@contextmanager
def served(folder, command, is_up, patience, ends_cleanly=True, **variables):
    """Start `command(port)` and yield the port once `is_up(port, what it has printed)`; its log is in `folder`.

    patience: seconds until it has to be up. ends_cleanly: its exit code has to be 0, and nothing a traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command(port), stdout=output, stderr=output, env={**os.environ, **variables})
        try:
            until = time.monotonic() + patience
            while not is_up(port, log.read_text()):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
            assert code == 0 or not ends_cleanly, log.read_text()
    assert "Traceback" not in log.read_text() or not ends_cleanly


def answers(url):
    """Whether a GET of an address succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
