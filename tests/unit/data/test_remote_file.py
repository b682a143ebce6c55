"""How many requests and bytes an index of remote shards takes, and what the headers' blocks give."""

import io
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data.formats import SourceSettings
from vlv.data.remote import RemoteFiles
from vlv.data.remote_file import RemoteFile, _Blocks, open_headers
from vlv.data.sources import open_source
from vlv.data.tar_index import index_shard

from .server import DiskFile, serve

MIB = 1 << 20


@pytest.fixture
def server():
    with serve() as server:
        yield server


def write_sparse_tar(path, samples, image, captions):
    """A tar of zeros that takes no room on the disk: samples of an image, and of a .json and .txt with `captions`."""
    with open(path, "wb") as file:
        for number in range(samples):
            members = [("jpg", image), ("json", 1500), ("txt", 100)] if captions else [("jpg", image)]
            for ending, size in members:
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = size
                file.write(info.tobuf())
                file.seek(-(-size // 512) * 512, io.SEEK_CUR)
        file.write(bytes(1024))


@pytest.mark.parametrize(
    ("samples", "image", "captions", "requests", "mib"),
    [
        (1000, 1 * MIB, False, 1001, 7.8),
        (1000, 100_000, True, 1001, 7.8),
        (1000, 30_000, True, 38, 31.9),
        (10_000, 2_000, False, 31, 24.4),
    ],
)
def test_requests_and_bytes_of_an_index(server, tmp_path, samples, image, captions, requests, mib):
    """The table of docs/data.md: one small request for each large member, and ever larger ones for small members."""
    write_sparse_tar(tmp_path / "x.tar", samples, image, captions)
    shard = server.files["x.tar"] = DiskFile(tmp_path / "x.tar")
    index = index_shard(f"{server.url}/x.tar", RemoteFiles())
    assert index.rows.equals(index_shard(str(tmp_path / "x.tar")).rows)
    asked = len([span for _, span in server.requests if span != "bytes=1-1"])  # that is whether there are ranges
    print(f"{samples} of {image}: {asked} requests, {server.sent / MIB:.1f} of {len(shard) / MIB:.1f} MiB")
    assert (asked, round(server.sent / MIB, 1)) == (requests, mib)


def test_blocks_give_what_the_file_has():
    rng = random.Random(0)
    content = rng.randbytes(3 * MIB)
    file = RemoteFile(len(content), _Blocks(lambda start, size: content[start : start + size], len(content)).read)
    position = 0
    for _ in range(2000):
        if rng.random() < 0.7:
            position = min(len(content), position + rng.choice((0, 512, 5000, 50_000, 500_000)))
        else:
            position = rng.randrange(len(content))
        assert file.seek(position) == position
        size = rng.choice((0, 1, 512, 20_000))
        assert file.read(size) == content[position : position + size]
        position = file.tell()
    file.seek(-3, io.SEEK_END)
    assert file.read() == content[-3:]
    assert file.read(1) == b""
    assert io.BufferedReader(RemoteFile(4, lambda start, size: b"abcd"[start : start + size])).read() == b"abcd"


def test_damage_is_the_same_by_http_as_on_a_disk(server, tmp_path):
    write_sparse_tar(tmp_path / "x.tar", 30, 20_000, True)
    whole = (tmp_path / "x.tar").read_bytes()
    rng = random.Random(1)
    for _ in range(40):
        content = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(3)):
            start = 512 * rng.randrange(len(content) // 512 + 1)
            content[start : start + 200] = rng.randbytes(len(content[start : start + 200]))
        (tmp_path / "y.tar").write_bytes(content)
        server.files["y.tar"] = bytes(content)
        far, near = index_shard(f"{server.url}/y.tar", RemoteFiles()), index_shard(str(tmp_path / "y.tar"))
        assert (far.rows.equals(near.rows), far[1:]) == (True, near[1:])


def test_parquet_is_read_by_the_columns_of_one_row_group(server, tmp_path):
    rng = random.Random(0)
    rows = {"image": [rng.randbytes(100_000) for _ in range(40)], "other": [rng.randbytes(100_000) for _ in range(40)]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet", row_group_size=10)
    server.files["x.parquet"] = (tmp_path / "x.parquet").read_bytes()
    source = open_source(f"{server.url}/x.parquet", SourceSettings(remote_cache_gb=0))
    assert (len(server.requests), server.sent < 100_000) == (2, True)  # whether there are ranges, and the footer
    server.requests.clear()
    server.sent = 0
    assert [source.read(n).image for n in range(10)] == rows["image"][:10]
    assert len(server.requests) == 2  # the footer, and the column's part
    assert server.sent < 1_100_000


def test_an_image_and_its_caption_are_one_request(server, tmp_path):
    write_sparse_tar(tmp_path / "x.tar", 3, 200_000, True)
    server.files["x.tar"] = (tmp_path / "x.tar").read_bytes()
    source = open_source(f"{server.url}/x.tar", SourceSettings(captions=True, remote_cache_gb=0))
    server.requests.clear()
    assert source.read(1) == open_source(str(tmp_path / "x.tar"), SourceSettings(captions=True)).read(1)
    assert len(server.requests) == 1
    open_source(f"{server.url}/x.tar").read(1)
    assert server.requests[-1] == ("x.tar", f"bytes={203_776 + 512}-{203_776 + 512 + 199_999}")


def test_a_header_that_cannot_be_had_is_no_damage(server, tmp_path):
    write_sparse_tar(tmp_path / "x.tar", 3, 200_000, False)
    server.files["x.tar"] = (tmp_path / "x.tar").read_bytes()
    files = RemoteFiles()
    open_headers(files, f"{server.url}/x.tar")
    server.faults["x.tar"] = [403]
    with pytest.raises(ValueError, match=r"x\.tar cannot be read: access is refused \(403\)"):
        index_shard(f"{server.url}/x.tar", files)
