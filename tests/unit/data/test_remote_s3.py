"""Data in a bucket of an S3 server on loopback (moto): the same samples as from a disk."""

import sys

import pytest

from tests.servers import answers, served
from vlv.data import remote
from vlv.data.formats import SourceSettings
from vlv.data.remote import MissingFileError, RemoteError
from vlv.data.sources import check_source, open_source

from .test_remote import assert_same, batches, data, quick  # noqa: F401 - fixtures

pytest.importorskip("s3fs")
BUCKET = "pictures"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket, as its client and the way to it in the environment, where users have it too.

    Its server is a process of its own: loader workers that were forked while one of its threads held a lock would wait
    for that lock for good.
    """
    pytest.importorskip("moto.server")

    def command(port):
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    def is_up(port, _):
        return answers(f"http://127.0.0.1:{port}/moto-api/")

    folder = tmp_path_factory.mktemp("server")
    with (
        served(folder, command, is_up, patience=120, ends_cleanly=False) as port,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        patch.setattr(remote, "_systems", {})  # those of another module's server have its address
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture
def stored(bucket, data):  # noqa: F811
    """The folder that is also in the bucket."""
    for path in data.rglob("*"):
        if path.is_file():
            bucket.put_object(Bucket=BUCKET, Key=f"data/{path.relative_to(data)}", Body=path.read_bytes())
    bucket.put_object(Bucket=BUCKET, Key="data/folder/", Body=b"")  # as consoles make a folder
    return data


@pytest.mark.parametrize("path", ["folder", "tar", "tar/{0..1}.tar", "*/[01].parquet", "all.list"])
@pytest.mark.parametrize("cache", [0, 1])
def test_the_same_samples_from_a_bucket_as_from_a_disk(bucket, stored, processor, path, cache):
    shards = "".join(f"s3://{BUCKET}/data/tar/{shard}.tar\n" for shard in range(2))
    bucket.put_object(Bucket=BUCKET, Key="data/all.list", Body=shards.encode())
    url, settings = f"s3://{BUCKET}/data/{path}", {"readers": 2, "remote_cache_gb": cache}
    check_source(url, SourceSettings(captions=True))
    expected = batches(stored / "folder", processor, 0)
    assert_same(batches(url, processor, **settings), expected)
    assert_same(batches(url, processor, **settings), expected)  # after workers have read by themselves, and cached


def test_an_object_that_changes_is_read_anew(bucket, stored):
    url = f"s3://{BUCKET}/data/folder"
    old = open_source(url).read(0).image
    other = (stored / "folder" / "05.png").read_bytes()
    bucket.put_object(Bucket=BUCKET, Key="data/folder/00.png", Body=other)
    assert open_source(url).read(0).image == other != old


def test_what_is_not_there(bucket, stored):
    with pytest.raises(MissingFileError, match=r"s3://pictures/data/9\.tar is not there"):
        open_source(f"s3://{BUCKET}/data/9.tar")
    with pytest.raises(RemoteError, match="s3://pictures/nothing/here names no file"):
        open_source(f"s3://{BUCKET}/nothing/here")
    with pytest.raises(RemoteError, match="s3://no-such-bucket/x"):
        open_source("s3://no-such-bucket/x")


def test_missing_credentials_are_named_at_once(stored, monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "_systems", {})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RemoteError, match=r"s3://pictures/data/tar/0\.tar cannot be read: .*credentials"):
        open_source(f"s3://{BUCKET}/data/tar/0.tar")
