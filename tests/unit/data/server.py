"""An HTTP server on loopback that serves files, also by ranges, and misbehaves as it is told."""

import html
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Faulty(BaseHTTPRequestHandler):
    """Serves `server.files`; `server.faults` holds, for each path, what happens to its first requests.

    A fault is a status, "stall" or "cut". `server.requests` lists the name and range of each, `server.heads` the names
    of those for headers, `server.sent` the bytes of the answers. A content may be bytes, or a file on disk.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the headers' acknowledgement

    def do_HEAD(self):
        self.server.heads.append(self.name)
        if (fault := self.next_fault(f"HEAD {self.name}")) is not None:
            self.send_error(fault)
        elif self.name not in self.server.files:
            self.send_error(404)
        else:
            self.answer(200, len(self.server.files[self.name]))

    def do_GET(self):
        fault = self.next_fault(self.name)
        self.server.requests.append((self.name, self.headers.get("Range")))
        page = self.index() if self.name not in self.server.files else None
        if isinstance(fault, int) or (page is None and self.name not in self.server.files):
            self.send_error(fault or 404)
            return
        content = page if page is not None else self.server.files[self.name]
        start, end = self.span(len(content))
        self.answer(206 if self.is_partial() else 200, end - start, page is not None)
        if fault is not None:  # the first bytes at most, and then an end or silence
            end, self.close_connection = min(end, max(start, 5000), start + 5000), True
        self.server.sent += end - start
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if fault == "stall":
            self.server.stopped.wait(5)

    @property
    def name(self):
        return unquote(self.path.partition("?")[0]).strip("/")

    def next_fault(self, name):
        return self.server.faults[name].pop(0) if self.server.faults.get(name) else None

    def is_partial(self):
        return self.server.has_ranges and self.headers.get("Range") is not None

    def span(self, size):
        if not self.is_partial():
            return 0, size
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        return int(first), min(size, int(last) + 1) if last else size

    def answer(self, status, size, is_page=False):
        self.send_response(status)
        if self.server.has_lengths:
            self.send_header("Content-Length", str(size))
        else:  # the end of the connection is that of the content
            self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/html" if is_page else "application/octet-stream")
        if self.server.has_etags and not is_page:
            self.send_header("ETag", f'"{self.server.versions.get(self.name, 0)}"')
        self.end_headers()

    def index(self):
        """A page with links to what lies in a folder, as servers make it; None where there is no such folder."""
        folder = f"{self.name}/" if self.name else ""
        below = {name.removeprefix(folder).partition("/") for name in self.server.files if name.startswith(folder)}
        links = sorted({first + slash for first, slash, _ in below})
        text = "".join(f'<a href="{html.escape(link.replace(" ", "%20"))}">x</a>' for link in ["../", "?C=M", *links])
        return text.encode() if links else None

    def log_message(self, *_):
        pass


class DiskFile:
    """A file's content by slices, however large it is."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return self.path.stat().st_size

    def __getitem__(self, part):
        with open(self.path, "rb") as file:
            file.seek(part.start)
            return file.read(part.stop - part.start)


@contextmanager
def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.daemon_threads = True
    server.files, server.faults, server.versions = {}, {}, {}
    server.has_ranges = server.has_etags = server.has_lengths = True
    server.requests, server.heads, server.sent = [], [], 0
    server.stopped = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
