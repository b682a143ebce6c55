"""Data behind URLs of a real server on loopback, with its faults; local files are the reference."""

import gc
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vlv.data import remote
from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.order import SampleOrder
from vlv.data.preparation import SamplePreparation
from vlv.data.remote import MissingFileError, RemoteError, bare, is_remote
from vlv.data.sample import BadSample
from vlv.data.sources import check_source, open_source
from vlv.data.transport import Patience

from .pictures import encode, picture, write_tar
from .server import serve
from .test_captions import EOS, Words

NAMES = [f"{number:02d}.png" for number in range(12)]
PICTURES = [encode(picture(number)) for number in range(12)]
WORDS = ["one two", "two", "one", "two one"] * 3


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Short pauses, and a cache of the test's own."""
    monkeypatch.setattr(remote, "_PATIENCE", Patience(timeout=20, retries=2, pause=0.01))
    monkeypatch.setenv("VLV_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def server():
    with serve() as server:
        yield server


def shorten_time_outs(monkeypatch, fault):
    """For a server that stalls; a test that waits for none is not to fail on a machine that is busy."""
    if fault == "stall":
        monkeypatch.setattr(remote, "_PATIENCE", Patience(timeout=1, retries=2, pause=0.01))


@pytest.fixture
def data(tmp_path):
    """The same twelve pairs as a folder, as two tar shards, and as parquet."""
    root = tmp_path / "data"
    (root / "folder").mkdir(parents=True)
    for name, content in zip(NAMES, PICTURES, strict=True):
        (root / "folder" / name).write_bytes(content)
    (root / "folder" / "captions.json").write_text(json.dumps(dict(zip(NAMES, WORDS, strict=True))))
    for shard in range(2):
        part = range(6 * shard, 6 * shard + 6)
        members = [(NAMES[n], PICTURES[n]) for n in part] + [(f"{n:02d}.txt", WORDS[n].encode()) for n in part]
        write_tar(root / "tar" / f"{shard}.tar", sorted(members))
    (root / "parquet").mkdir()
    for file in range(2):
        part = slice(6 * file, 6 * file + 6)
        table = pa.table({"image": PICTURES[part], "caption": WORDS[part]})
        pq.write_table(table, root / "parquet" / f"{file}.parquet", row_group_size=6)
    return root


def upload(server, root, under=""):
    for path in root.rglob("*"):
        if path.is_file():
            server.files[f"{under}{path.relative_to(root)}"] = path.read_bytes()


def batches(path, processor, num_workers=2, **settings):
    source = open_source(str(path), SourceSettings(captions=True, **settings))
    prepare = SamplePreparation(processor, CaptionTokenizer(Words(), 3, True, EOS))
    # The window spans both shards, so that the order is the same for one shard of twelve and for two of six.
    dataset = OrderedDataset(source, SampleOrder([len(source)], 5, 100), prepare)
    return list(build_loader(dataset, [list(range(n, n + 4)) for n in range(0, 24, 4)], num_workers, False))


def assert_same(found, expected):
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        assert one["errors"] == [None] * 4
        assert torch.equal(one["encoder_pixels"], other["encoder_pixels"])
        assert torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize("cache", [0, 1])
@pytest.mark.parametrize(
    "path", ["folder", "tar/{0..1}.tar", "tar/", "tar/*.tar", "parquet", "parquet/[01].parquet", "all.list"]
)
def test_the_same_samples_by_http_as_from_a_disk(server, data, processor, path, cache):
    upload(server, data)
    server.files["all.list"] = b"# shards\ntar/0.tar\n\n" + f"{server.url}/tar/1.tar\n".encode()
    expected = batches(data / "folder", processor, 0)
    assert_same(batches(f"{server.url}/{path}", processor, readers=2, remote_cache_gb=cache), expected)


def test_workers_leave_the_connections_of_their_parent_alone(server, data, processor):
    """A forked worker shares sockets and event loop of the process that opened the data."""
    upload(server, data)
    source = open_source(f"{server.url}/tar", SourceSettings(remote_cache_gb=0))
    expected = source.read(0)
    for _ in range(3):
        dataset = OrderedDataset(source, SampleOrder([12], 5, 100), SamplePreparation(processor))
        assert len(list(build_loader(dataset, [[n] for n in range(12)], 2, False))) == 12
        server.requests.clear()
        assert source.read(0) == expected
        assert len(server.requests) == 1  # at once, and not after a time-out


def test_a_list_file_joins_a_disk_and_a_server(server, data, processor, tmp_path):
    upload(server, data)
    (tmp_path / "shards.list").write_text(f"data/tar/0.tar\n# the other half\n{server.url}/tar/1.tar?token=secret\n")
    assert_same(batches(tmp_path / "shards.list", processor), batches(data / "folder", processor, 0))
    source = open_source(str(tmp_path / "shards.list"))
    assert source.name(0) == f"{tmp_path}/data/tar/0.tar/00.png"
    assert source.name(11) == f"{server.url}/tar/1.tar/11.png"
    (tmp_path / "shards.list").write_text("data/tar/2.tar\n")
    with pytest.raises(ValueError, match=r"data/tar/2\.tar, which does not exist"):
        open_source(str(tmp_path / "shards.list"))
    (tmp_path / "shards.list").write_text("# nothing\n")
    with pytest.raises(ValueError, match="lists nothing"):
        open_source(str(tmp_path / "shards.list"))


def test_names_are_relative_and_ordered_as_on_a_disk(server, data):
    upload(server, data)
    for kind in ("folder", "tar", "parquet"):
        local, far = open_source(str(data / kind)), open_source(f"{server.url}/{kind}")
        assert far.shard_sizes.tolist() == local.shard_sizes.tolist()
        assert [far.name(n) for n in range(12)] == [local.name(n) for n in range(12)]


def test_quoted_and_hidden_names(server):
    server.files |= {"d/a b.png": PICTURES[0], "d/.b.png": PICTURES[1], "d/sub/c.png": PICTURES[2], "d/x.heic": b""}
    source = open_source(f"{server.url}/d/")
    assert [source.name(n) for n in range(len(source))] == ["a b.png", "sub/c.png"]
    assert [source.read(n).image for n in range(2)] == [PICTURES[0], PICTURES[2]]


@pytest.mark.parametrize("fault", ["stall", "cut", 503])
@pytest.mark.parametrize("name", ["tar/0.tar", "parquet/0.parquet", "folder/00.png"])
def test_a_fault_that_passes_costs_nothing(server, tmp_path, monkeypatch, fault, name):
    shorten_time_outs(monkeypatch, fault)
    large = [encode(picture(n, (100, 80))) for n in range(2)]  # longer than what a fault lets through
    write_tar(tmp_path / "tar" / "0.tar", [("0.png", large[0]), ("1.png", large[1])])
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"image": large}), tmp_path / "parquet" / "0.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "00.png").write_bytes(large[0])
    upload(server, tmp_path)
    source = open_source(f"{server.url}/{name}", SourceSettings(remote_cache_gb=0))
    server.requests.clear()
    server.faults[name] = [fault, fault]
    assert source.read(0).image == large[0]
    assert server.faults[name] == []


@pytest.mark.parametrize(
    ("fault", "reason", "workers"),
    [
        ("stall", "gave nothing in time", 0),
        ("cut", "Response payload is not completed", 0),
        (403, "refused", 0),
        (503, "503", 1),
    ],
)
def test_a_fault_that_stays_stops_the_run_and_is_no_bad_sample(
    server, tmp_path, processor, monkeypatch, fault, reason, workers
):
    shorten_time_outs(monkeypatch, fault)
    write_tar(tmp_path / "0.tar", [(f"{n}.png", encode(picture(n, (100, 80)))) for n in range(4)])
    upload(server, tmp_path)
    url = f"{server.url.replace('//', '//me:secret@')}/0.tar?token=secret"
    source = open_source(url, SourceSettings(remote_cache_gb=0))
    server.faults["0.tar"] = [fault] * 99
    server.requests.clear()
    dataset = OrderedDataset(source, SampleOrder([4], 5, 100), SamplePreparation(processor))
    with pytest.raises(RemoteError, match=rf"0\.tar.* cannot be read: .*{reason}.*resume=latest") as error:
        list(build_loader(dataset, [[0, 1]], workers, False))
    assert "secret" not in str(error.value).splitlines()[-1]  # the line that is shown
    assert len(server.requests) == (1 if fault == 403 else 3)
    del error
    gc.collect()  # here, and not in fsspec's thread, is waited for the loader's workers


@pytest.mark.parametrize("status", [404, 403])
def test_what_cannot_be_opened_is_named_without_credentials(server, status):
    server.faults |= {name: [status] * 9 for name in ("x.tar", "HEAD x.tar")}
    url = f"{server.url.replace('//', '//me:secret@')}/{{x,y}}.tar?token=secret"
    for look in (open_source, check_source):
        with pytest.raises(ValueError, match=rf"/x\.tar\S* (is not there|cannot be read: .*{status})") as error:
            look(url)
        assert "secret" not in str(error.value)
        assert len(server.heads) <= 4  # a definite answer is not asked for again


def test_nothing_there(server):
    server.files["a.txt"] = b""
    with pytest.raises(ValueError, match="is not there"):
        open_source(f"{server.url}/gone/")
    for path in ("*.tar", "none.list"):
        with pytest.raises(ValueError, match=r"names no file|is not there"):
            open_source(f"{server.url}/{path}")
    with pytest.raises(ValueError, match="holds nothing that can be read"):
        open_source(server.url)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1/a\.tar cannot be read: .*connect"):
        open_source("http://127.0.0.1:1/a.tar")


@pytest.mark.parametrize("path", ["d/", "d/**/*.png"])
def test_a_folder_that_cannot_be_listed_is_not_left_out(server, path):
    server.files |= {"d/a.png": PICTURES[0], "d/sub/b.png": PICTURES[1]}
    server.faults["d/sub"] = [503, "cut"]
    assert len(open_source(f"{server.url}/{path}")) == 2
    server.faults["d/sub"] = [503] * 9
    with pytest.raises(RemoteError, match=r"/d/sub/? cannot be read: 503"):
        open_source(f"{server.url}/{path}")


def test_a_server_without_ranges_is_named_before_anything_is_downloaded(server, data):
    upload(server, data)
    server.has_ranges = False
    for name in ("tar/0.tar", "parquet/0.parquet"):
        for look in (open_source, check_source):
            with pytest.raises(
                ValueError, match=rf"{name} cannot be read by index: the server gives no ranges; stream:"
            ):
                look(f"{server.url}/{name}")
    assert len(open_source(f"{server.url}/folder")) == 12  # files are read whole


def test_a_dead_link_is_a_bad_sample(server):
    server.files |= {"d/a.png": PICTURES[0], "d/b.png": PICTURES[1]}
    source = open_source(f"{server.url}/d")
    del server.files["d/a.png"]
    with pytest.raises(BadSample, match="no such file"):
        source.read(0)
    assert source.read(1).image == PICTURES[1]


def test_a_protocol_that_is_unknown_or_not_installed(monkeypatch, server):
    with pytest.raises(ValueError, match=r"nope://a/b\.tar cannot be read: Protocol not known: nope"):
        open_source("nope://a/b.tar")
    import fsspec.core

    def missing(*_, **__):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ValueError, match=r"s3://a/b\.tar needs a package: pip install s3fs$"):
        open_source("s3://a/b.tar")
    with pytest.raises(ValueError, match=r"b\.tar needs a package: pip install aiohttp, or stream:http"):
        open_source(f"{server.url}/b.tar")


def test_the_index_is_kept_until_the_file_changes(server, data, tmp_path):
    upload(server, data)
    url = f"{server.url}/tar/0.tar?token="

    def requests():
        before = len(server.requests)
        open_source(url + str(before))  # a renewed credential is no other file
        return len(server.requests) - before

    first = requests()
    assert first == 4  # whether there are ranges, and three blocks with the headers
    assert requests() == 0
    server.versions["tar/0.tar"] = 1
    assert requests() == first
    server.has_etags = False  # nothing tells one version from another
    assert requests() == requests() == first
    kept = [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".arrow"]
    assert [b"token" in path.read_bytes() for path in kept] == [False]


def test_what_was_read_is_not_asked_for_again(server, data, tmp_path):
    upload(server, data)
    for kind in ("folder", "tar", "parquet"):
        first, second = (open_source(f"{server.url}/{kind}", SourceSettings(captions=True)) for _ in range(2))
        expected = [first.read(n) for n in range(12)]
        server.requests.clear()
        assert [second.read(n) for n in range(12)] == expected
        assert server.requests == []
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache" / "remote").iterdir()} <= {0o700, 0o600}


def test_captions_are_read_anew(server, data):
    upload(server, data)
    settings = SourceSettings(captions=True)
    assert open_source(f"{server.url}/folder", settings).read(0).caption == "one two"
    server.files["folder/captions.json"] = json.dumps({NAMES[0]: "new"}).encode()
    assert open_source(f"{server.url}/folder", settings).read(0).caption == "new"
    del server.files["folder/captions.json"]
    with pytest.raises(ValueError, match=rf"^{server.url}/folder has no captions"):
        open_source(f"{server.url}/folder", settings)


def test_two_queries_are_two_images(server, monkeypatch):
    files = remote.remote_files(1)
    files.listing = "x"
    contents = iter([b"one", b"two"])
    monkeypatch.setattr(files, "ask", lambda *_: next(contents))
    assert [files.read_whole(f"{server.url}/a.png?id={n}") for n in (1, 2, 1)] == [b"one", b"two", b"one"]


def test_synchronous_file_systems(data, processor):
    """Of fsspec's file systems some are no asynchronous ones, as hf:// is."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(data), "/vlv", recursive=True)
    try:
        expected = batches(data / "folder", processor, 0)
        for path in ("folder", "tar/{0..1}.tar", "parquet/*.parquet"):
            assert_same(batches(f"memory://vlv/{path}", processor), expected)
        with pytest.raises(MissingFileError, match=r"memory://vlv/gone\.tar is not there"):
            open_source("memory://vlv/gone.tar")
    finally:
        memory.rm("/vlv", recursive=True)


def test_urls_without_credentials():
    assert bare("https://me:key@host:1/a/b.tar?sig=key#x") == "https://host:1/a/b.tar"
    assert bare("s3://bucket/what?#1.png") == "s3://bucket/what?#1.png"
    assert bare("data/a?.tar") == "data/a?.tar"
    assert [is_remote(path) for path in ("s3://b", "pipe:cat s3://b", "stream:https://b")] == [True, False, False]


def test_a_retry_is_logged_without_credentials(server, data, caplog):
    upload(server, data)
    source = open_source(f"{server.url}/tar/0.tar?token=secret", SourceSettings(remote_cache_gb=0))
    server.faults["tar/0.tar"] = [503]
    with caplog.at_level(logging.WARNING):
        source.read(0)
    assert "trying again" in caplog.text
    assert "secret" not in caplog.text
