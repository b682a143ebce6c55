"""A server in a thread of this process, with an engine that says an image's mean colour."""

import asyncio
import base64
import io
import threading
import time
from contextlib import contextmanager

import openai
import uvicorn
from PIL import Image

from vlv.models.image_processor import VLVImageProcessor
from vlv.serving.app import ServerSettings, create_app
from vlv.serving.batching import Said

SIDE = 16
RED = "colour [255, 0, 0]"  # what the engine says of `jpeg()`


class ColourEngine:
    """Says the mean colour, and each seed where captions are sampled; takes `seconds` a batch."""

    prompt_tokens, max_new_tokens = 7, 50

    def __init__(self, seconds=0.0):
        self.seconds, self.batches, self.asked = seconds, [], []

    def run(self, pixels, asked, seeds, on_text=None, is_over=None):
        time.sleep(self.seconds)
        self.batches.append(len(pixels))
        self.asked.append(asked)
        said = [[self._said(image, asked, seed) for seed in own] for image, own in zip(pixels, seeds, strict=True)]
        if on_text is not None:
            for image, own in enumerate(said):
                for caption, one in enumerate(own):
                    for word in one.text.split(" "):
                        on_text(image, caption, word + " ")
        return said

    def _said(self, image, asked, seed):
        text = f"colour {[round(float(value)) for value in image.float().mean((1, 2))]}"
        ended = asked.max_new_tokens is None or asked.max_new_tokens > 3
        return Said(f"{text} {seed}" if asked.temperature else text, 3, ended)


@contextmanager
def serving(engine=None, **settings):
    """Serve while the block runs; gives the address, such as http://127.0.0.1:40000."""
    engine = engine or ColourEngine()
    app = create_app(engine, VLVImageProcessor(SIDE, SIDE), ServerSettings(**{"model_name": "colours", **settings}))
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def jpeg(colour="red", side=20):
    """The bytes of a picture of one colour."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(content, "PNG")
    return content.getvalue()


def float_tiff():
    """A picture of floats that are not between 0 and 1, so that nobody knows which of them is white."""
    content = io.BytesIO()
    Image.new("F", (20, 20), 700.0).save(content, "TIFF")
    return content.getvalue()


def data_url(content):
    """Of an image file's bytes."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def ask(url, text="What is this?"):
    """Messages of a request about one image."""
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


def client(address, key="none"):
    """The official client, which tries nothing twice."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=20)
