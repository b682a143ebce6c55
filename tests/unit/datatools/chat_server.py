"""A chat server on loopback: OpenAI's protocol, a record of every request, and faults on demand."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

STEP = 5  # grey levels between two pictures, which JPEG keeps apart


def write_pictures(folder, count):
    """Pictures 00.png, 01.png, ...: grey of STEP times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (60, 40), STEP * number).save(folder / f"{number:02}.png")
    return [f"{number:02}.png" for number in range(count)]


def caption_of(number):
    return f"A grey picture of level {STEP * number}, " + "even and calm, " * 10 + "with nothing else."


def answer(text, finish_reason="stop", usage=(100, 20), **message):
    """A completion as OpenAI documents it."""
    tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)} if usage else None
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish_reason,
                "logprobs": None,
            }
        ],
        "usage": tokens,
    }


class Chat(BaseHTTPRequestHandler):
    """`server.faults[number]` holds what happens to the first requests for a picture, one after another.

    int: that status. (int, headers, body): the same with those; a header that is a function is called. dict: that
    completion. bytes: that body, status 200.
    "hang": silence. "drip": a byte now and then. "cut": the connection ends within the answer.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image, text = body["messages"][0]["content"]
        picture = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition("base64,")[2])))
        number = round(float(np.asarray(picture.convert("L")).mean()) / STEP)
        seen = {"number": number, "time": time.monotonic(), "path": self.path, "body": body, "prompt": text["text"]}
        seen |= {"picture": picture, "authorization": self.headers.get("Authorization")}
        with self.server.lock:
            self.server.seen.append(seen)
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
            waiting = self.server.faults.get(number, [])
            fault = waiting.pop(0) if waiting else self.server.always
        try:
            time.sleep(self.server.delay)
            self.respond(fault if fault is not None else answer(caption_of(number)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.server.lock:
                self.server.running -= 1

    def respond(self, fault):
        status, headers, content = 200, {}, fault
        if fault == "hang":
            self.server.stopped.wait(30)
            return
        if fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not self.server.stopped.wait(0.05):
                self.wfile.write(b" ")
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
            return
        if isinstance(fault, int):
            status, content = fault, {"error": {"message": f"trouble {fault}", "code": None}}
        elif isinstance(fault, tuple):
            status, headers, content = fault
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value() if callable(value) else value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class ChatServer(ThreadingHTTPServer):
    """The server, started on a free port; `asked` counts the requests for each picture."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Chat)
        self.faults, self.always, self.delay = {}, None, 0.0
        self.seen, self.lock, self.stopped = [], threading.Lock(), threading.Event()
        self.running = self.most_running = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def asked(self):
        numbers = [seen["number"] for seen in self.seen]
        return {number: numbers.count(number) for number in sorted(set(numbers))}

    def close(self):
        self.stopped.set()
        self.shutdown()
        self.server_close()
