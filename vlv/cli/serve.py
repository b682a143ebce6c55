"""Serve a captioner over HTTP, as OpenAI's API has it: POST /v1/chat/completions with an image_url, GET /v1/models.

Requests that come at once are captioned together. /healthz says whether it runs, /metrics has Prometheus' numbers. A
stop (Ctrl-C, SIGTERM) takes no more requests and finishes those that were taken. Where the environment has
VLV_API_TOKEN, requests must bring it as their bearer token.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from vlv.cli.captioner import load_captioner
from vlv.cli.entry import Call, parse, require_packages
from vlv.cli.ports import require_free
from vlv.config import ServeConfig


def main(arguments: list[str]) -> None:
    """Read the call, load the captioner, and serve until stopped."""
    config = parse(ServeConfig, Call("vlv serve", __doc__ or "", ("ckpt_dir",)), arguments)
    require_packages("vlv serve", "serve", "fastapi", "uvicorn", "prometheus_client", "httpcore")
    require_free(config.host, config.port)
    captioner = load_captioner(config.ckpt_dir, config.precision, config.quantize, **config.bases())
    from vlv.serving.app import ServerSettings, create_app
    from vlv.serving.engine import CaptionEngine
    from vlv.serving.listening import listen

    name = config.model_name or Path(config.ckpt_dir).resolve().name
    settings = ServerSettings(
        model_name=name,
        token=os.environ.get("VLV_API_TOKEN") or None,
        batch_size=config.batch_size,
        batch_wait=config.batch_wait_ms / 1000,
        queue_limit=config.queue_limit,
        request_timeout=config.request_timeout,
        num_beams=config.num_beams,
        max_new_tokens=config.max_new_tokens,
        max_image_bytes=config.max_image_mb * 1_000_000,
        max_image_mib=config.max_image_mib,
        max_waiting_bytes=config.max_waiting_mb * 1_000_000,
        download_timeout=config.download_timeout,
        allow_private=config.allow_private,
        shutdown_timeout=config.shutdown_timeout,
    )
    app = create_app(CaptionEngine(captioner), captioner.image_processor, settings)
    # After a clean shutdown uvicorn raises the signal that it was stopped by once more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    place = f"http://{config.host}:{config.port}/v1"
    listen(
        app, config.host, config.port, config.shutdown_timeout, lambda: print(f"serving {name} on {place}", flush=True)
    )
