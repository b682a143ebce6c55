"""scripts/prepare_laion.sh from end to end: a server on loopback that misbehaves, img2dataset in its environment.

Slow: the environment takes a minute to make. IMG2DATASET_ENV names one that is kept.
"""

import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlv.data.formats import SourceSettings
from vlv.data.sources import open_source
from vlv.data.transforms import decode_image

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def photo(seed, size):
    """Smooth colours that JPEG keeps, other ones for each seed."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


class Faulty(BaseHTTPRequestHandler):
    """`server.files[path]`: bytes, a status, "hang", or ("to", path)."""

    def do_GET(self):
        content = self.server.files[self.path]
        with self.server.lock:
            self.server.requests.append(self.path)
        time.sleep(self.server.delay)
        if content == "hang":
            self.server.stopped.wait(30)
        elif isinstance(content, int):
            self.send_error(content)
        elif isinstance(content, tuple):
            self.send_response(302)
            self.send_header("Location", content[1])
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.daemon_threads, server.files, server.requests, server.delay = True, {}, [], 0.0
    server.lock, server.stopped = threading.Lock(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    return os.environ.get("IMG2DATASET_ENV") or str(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture
def start(tmp_path, environment):
    def run(**settings):
        given = {
            "METADATA": str(tmp_path / "meta"),
            "OUTPUT": str(tmp_path / "out"),
            "PYTHON": sys.executable,
            "IMG2DATASET_ENV": environment,
            "PROCESSES": "2",
            "THREADS": "4",
            "SAMPLES_PER_SHARD": "10",
            "TIMEOUT": "2",
        }
        variables = {**os.environ, **given, **{key: str(value) for key, value in settings.items()}}
        command = ["bash", str(ROOT / "scripts" / "prepare_laion.sh")]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=pipe, stderr=pipe, text=True)

    return run


@pytest.fixture
def call(start):
    """Run the script to its end: (exit code, stdout, stderr)."""

    def run(**settings):
        process = start(**settings)
        out, err = process.communicate(timeout=590)
        return process.returncode, out, err

    return run


def write_metadata(path, server, rows):
    """rows: (name, width, height, watermark)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names, widths, heights, marks = zip(*rows, strict=True)
    table = {
        "URL": [f"{server.url}/{name}" for name in names],
        "TEXT": [f"the text of {name}, \u00e9 \U0001f600" for name in names],
        "WIDTH": pa.array(widths, pa.int32()),
        "HEIGHT": pa.array(heights, pa.int32()),
        "similarity": [0.3] * len(rows),
        "punsafe": [0.1] * len(rows),
        "pwatermark": list(marks),
        "AESTHETIC_SCORE": [5.0] * len(rows),
        "hash": list(range(len(rows))),
    }
    pq.write_table(pa.table(table), path)


def pairs(folder):
    """Caption -> image, as training reads the tars."""
    source = open_source(str(folder), SourceSettings(captions=True))
    samples = [source.read(index) for index in range(len(source))]
    found = {sample.caption: decode_image(sample.image) for sample in samples}
    assert len(found) == len(samples)
    return found


def text(name):
    return f"the text of {name}, \u00e9 \U0001f600"


def test_exactly_the_good_images_with_their_texts(server, call, tmp_path):
    photos = {f"good{number}.jpg": photo(number, (900, 600)) for number in range(12)}
    server.files = {f"/{name}": encoded(image, quality=95) for name, image in photos.items()}
    photos["small.jpg"] = photo(20, (640, 520))
    server.files["/small.jpg"] = encoded(photos["small.jpg"], quality=95)
    photos["moved.jpg"] = photo(21, (600, 900))
    server.files |= {"/moved.jpg": ("to", "/there.png"), "/there.png": encoded(photos["moved.jpg"], "PNG")}
    server.files |= {
        "/gone.jpg": 404,
        "/gone2.jpg": 404,
        "/silent.jpg": "hang",
        "/page.jpg": b"<html><body>not an image</body></html>" * 50,
        "/cut.jpg": server.files["/good0.jpg"][:9000],
        "/giant.png": encoded(Image.new("L", (20_000, 9_000), 90), "PNG"),
        "/shrunk.jpg": encoded(photo(30, (300, 300))),
        "/narrow.jpg": encoded(photo(31, (2000, 600))),
        "/loop.jpg": ("to", "/loop.jpg"),
        "/watermark.jpg": encoded(photo(32, (900, 600))),
        "/tiny.jpg": encoded(photo(33, (900, 600))),
    }
    names = [name.strip("/") for name in server.files if name not in ("/there.png", "/watermark.jpg", "/tiny.jpg")]
    rows = [(name, 900, 600, 0.1) for name in names]
    rows += [("watermark.jpg", 900, 600, 0.6), ("tiny.jpg", 500, 500, 0.1)]
    write_metadata(tmp_path / "meta" / "part-0.parquet", server, rows[:15])
    write_metadata(tmp_path / "meta" / "part-1.parquet", server, rows[15:])
    code, out, err = call()
    assert code == 0, out + err
    written = pairs(tmp_path / "out" / "shards")
    assert written.keys() == {text(name) for name in photos}
    for name, image in photos.items():
        found = written[text(name)]
        scale = min(1.0, 512 / min(image.size))
        assert found.size == tuple(round(side * scale) for side in image.size)
        expected = image.resize(found.size, Image.Resampling.BOX)
        difference = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(expected, int))
        assert difference.mean() < 3, name
    assert "23 of 25 rows are kept" in out
    assert "of 23 images (60.9%)" in out
    failures = re.findall(r"^  (\d+)  (.+)$", out[out.index(" MB\n") :], re.MULTILINE)
    assert {kind: int(count) for count, kind in failures} == {
        "HTTP 404": 2,
        "no image, or a damaged one": 2,
        "HTTP 302": 1,
        "time-out": 1,
        "too many pixels": 1,
        "smaller than the metadata says": 1,
        "narrower than the metadata says": 1,
    }
    assert f"train_dataset_path={tmp_path}/out/shards bash train_stage1.sh" in out
    assert "/watermark.jpg" not in server.requests
    before = len(server.requests)
    assert call()[0] == 0  # a finished set asks for nothing
    assert len(server.requests) == before


def test_a_killed_call_goes_on_and_gives_the_same_set(server, start, call, tmp_path):
    photos = {f"{number:02}.jpg": photo(number, (700, 600)) for number in range(60)}
    server.files = {f"/{name}": encoded(image) for name, image in photos.items()}
    server.files["/missing.jpg"] = 404
    rows = [(name, 700, 600, 0.1) for name in [*photos, "missing.jpg"]]
    random.Random(0).shuffle(rows)
    write_metadata(tmp_path / "meta" / "a.parquet", server, rows)
    code, out, err = call(OUTPUT=tmp_path / "whole")
    assert code == 0, out + err
    server.requests.clear()
    server.delay = 0.4
    process = start()
    until = time.monotonic() + 300
    shards = tmp_path / "out" / "shards"
    while len(list(shards.glob("*_stats.json"))) < 2:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)  # the shell alone, as the kernel would
    process.wait()
    time.sleep(1.5)  # nothing that it started goes on
    asked = len(server.requests)
    time.sleep(1.5)
    assert len(server.requests) == asked < 61
    done = {path.name for path in shards.glob("*_stats.json")}
    assert 2 <= len(done) < 7
    (shards / sorted(done)[0]).write_text('{"count": ')  # a kill may also come within this file
    server.delay = 0
    code, out, err = call()
    assert code == 0, out + err
    assert "1 shards have broken statistics, and are fetched again" in out
    whole, resumed = pairs(tmp_path / "whole" / "shards"), pairs(shards)
    assert resumed.keys() == whole.keys() == {text(name) for name in photos}
    assert all(resumed[caption].tobytes() == whole[caption].tobytes() for caption in whole)
    for number in range(7):
        first, second = (
            sorted(pq.read_table(folder / f"{number:05}.parquet")["url"].to_pylist())
            for folder in (tmp_path / "whole" / "shards", shards)
        )
        assert first == second
    # Shards that were finished were not fetched again: 61 rows, less those of the finished shards but the torn one.
    assert len(server.requests) - asked == 61 - 10 * (len(done) - 1)
    assert "60 of 61 images (98.4%)" in out


def test_files_are_kept_as_they_came(server, call, tmp_path):
    turned = photo(1, (900, 600))
    exif = turned.getexif()
    exif[274] = 6
    server.files = {"/a.jpg": encoded(turned, exif=exif)}
    write_metadata(tmp_path / "meta" / "a.parquet", server, [("a.jpg", 900, 600, 0.1)])
    # With 0 whatever they are; else where they are no larger: nothing is enlarged.
    for size in (0, 600, 1024):
        assert call(IMAGE_SIZE=size, OUTPUT=tmp_path / str(size))[0] == 0
        source = open_source(str(tmp_path / str(size) / "shards"))
        assert source.read(0).image == server.files["/a.jpg"]


def test_nothing_that_can_be_fetched_is_an_error(server, call, tmp_path):
    server.files = {"/a.jpg": 404}
    write_metadata(tmp_path / "meta" / "a.parquet", server, [("a.jpg", 900, 600, 0.1)])
    code, out, err = call()
    assert code == 1
    assert "1  HTTP 404" in out
    assert "not one of 1 images could be fetched" in err
