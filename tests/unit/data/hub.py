"""A hub on loopback with one dataset, owner/name, as far as `datasets` asks it."""

import json
import re
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


@contextmanager
def serve_dataset(files):
    """Serve {path: bytes} under data/ as commit `COMMIT` of owner/name; yields the endpoint and the requests.

    A path whose bytes are None is listed, and answers 503.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def respond(self):
            requests.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            data, headers = self.answer(path)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if data is not None and wanted:
                first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                data = data[first : last + 1]
                self.send_response(206)
            elif data is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if "/name" in path else "RepoNotFound")
                data = b""
            else:
                self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def answer(self, path):
            entries = [
                {"type": "file", "path": f"data/{name}", "size": len(data or ""), "oid": "b" * 40}
                for name, data in files.items()
            ]
            if "/resolve/" in path:
                data = files.get(path.rpartition("/data/")[2])
                return data, {"ETag": f'"{zlib.crc32(path.encode()):08x}"', "X-Repo-Commit": COMMIT}
            if path == f"/api/datasets/owner/name/tree/{COMMIT}":
                return json.dumps([{"type": "directory", "path": "data", "size": 0, "oid": "d" * 40}]).encode(), {}
            if path == f"/api/datasets/owner/name/tree/{COMMIT}/data":
                return json.dumps(entries).encode(), {}
            if path in ("/api/datasets/owner/name", f"/api/datasets/owner/name/revision/{COMMIT}"):
                facts = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": e["path"]} for e in entries]}
                return json.dumps({**facts, "private": False, "tags": [], "downloads": 0, "likes": 0}).encode(), {}
            return None, {}

        do_GET = do_HEAD = respond  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
