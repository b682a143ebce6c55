"""An app at a port, from when it listens until it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def main_loop(self) -> None:
        # Not at the end of `startup`: of a signal that comes there, older versions leave without closing the port.
        self._on_ready()
        await super().main_loop()


def listen(app: FastAPI, host: str, port: int, shutdown_timeout: float, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        shutdown_timeout: seconds that requests have to finish then.
        on_ready: called once clients can connect.

    Raises:
        SystemExit: the port cannot be listened on.
    """
    grace = max(1, round(shutdown_timeout))
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=grace
    )
    with suppress(KeyboardInterrupt):  # uvicorn's own, after it has shut down
        _Server(config, on_ready).run()
