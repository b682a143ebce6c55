"""Datasets of Hugging Face's `datasets`: saved folders, Arrow files, and the hub."""

import hashlib
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.hub_stream import HubStream
from vlv.data.mixture import build_order
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import BadSample
from vlv.data.sources import check_source, open_source
from vlv.data.transport import StreamBrokenError

from .hub import COMMIT, serve_dataset
from .pictures import encode, picture

FILES = [encode(picture(number)) for number in range(7)]
TEXTS = [f"picture {number}" for number in range(7)]
PAIRS = SourceSettings(captions=True, caption_column="text")


def dataset(count=7):
    features = Features({"image": Image(), "text": Value("string"), "other": Value("int32")})
    images = [{"bytes": data, "path": None} for data in FILES[:count]]
    return Dataset.from_dict({"image": images, "text": TEXTS[:count], "other": range(count)}, features=features)


def pairs_of(source):
    return {source.name(index): source.read(index) for index in range(len(source))}


def test_a_saved_dataset(tmp_path):
    """In several files; the bytes are those that were saved, not decoded and encoded again."""
    dataset().save_to_disk(tmp_path / "saved", num_shards=3)
    samples = pairs_of(open_source(str(tmp_path / "saved"), PAIRS))
    assert list(samples) == [f"saved:{n}" for n in range(7)]
    assert list(samples.values()) == list(zip(FILES, TEXTS, strict=True))
    assert [sample.caption for sample in pairs_of(open_source(str(tmp_path / "saved"))).values()] == [None] * 7


def test_a_saved_selection_is_followed(tmp_path):
    dataset().select([5, 1, 3]).save_to_disk(tmp_path / "saved")
    assert [s.caption for s in pairs_of(open_source(str(tmp_path / "saved"), PAIRS)).values()] == [
        "picture 5", "picture 1", "picture 3"
    ]  # fmt: skip


def test_splits(tmp_path):
    folder = str(tmp_path / "dict")
    DatasetDict(train=dataset(), test=dataset(2)).save_to_disk(folder)
    assert len(open_source(folder, PAIRS)) == 7
    test = SourceSettings(captions=True, caption_column="text", split="test")
    assert list(pairs_of(open_source(folder, test))) == ["test:0", "test:1"]
    for use in (open_source, check_source):
        with pytest.raises(ValueError, match="has no split 'dev': set data_split to one of train, test"):
            use(folder, SourceSettings(split="dev"))


def test_the_only_split_is_taken(tmp_path):
    DatasetDict(validation=dataset(2)).save_to_disk(tmp_path / "dict")
    assert len(open_source(str(tmp_path / "dict"))) == 2


def test_arrow_files(tmp_path):
    """Files of both Arrow formats that a pattern names; a column may be of a plain type."""
    table = pa.table({"image": FILES[:3], "text": TEXTS[:3]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.slice(1))
    samples = list(pairs_of(open_source(str(tmp_path / "*.arrow"), PAIRS)).values())
    assert [sample.caption for sample in samples] == [*TEXTS[:3], *TEXTS[1:3]]
    assert samples[4].image == FILES[2]


def test_arrow_files_beside_images_are_not_the_data(folder):
    (folder / "index.arrow").write_bytes(b"anything")
    assert open_source(str(folder)).name(0) == "a.jpg"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (SourceSettings(image_column="img"), "has no column 'img'; its columns are image, text, other: set image_col"),
        (SourceSettings(captions=True), "has no column 'caption'"),
        (SourceSettings(image_column="other"), "column 'other' is int32, wanted binary"),
    ],
)
def test_columns_that_are_not_there(tmp_path, settings, match):
    dataset().save_to_disk(tmp_path / "saved")
    for use in (open_source, check_source):
        with pytest.raises(ValueError, match=match):
            use(str(tmp_path / "saved"), settings)


def test_damaged_files(tmp_path):
    dataset().save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="saved cannot be read as Arrow files: ") as error:
        open_source(str(tmp_path / "saved"))
    assert "\n" not in str(error.value)


def test_missing_values_are_bad_samples(tmp_path):
    rows = {"image": [None, {"bytes": FILES[0], "path": None}], "text": ["a", None]}
    Dataset.from_dict(rows, features=Features({"image": Image(), "text": Value("string")})).save_to_disk(tmp_path / "d")
    source = open_source(str(tmp_path / "d"), PAIRS)
    with pytest.raises(BadSample, match="the image bytes are missing"):
        source.read(0)
    with pytest.raises(BadSample, match="the caption is missing"):
        source.read(1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_read_the_mapped_files(tmp_path, processor, num_workers):
    dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    source = open_source(str(tmp_path / "saved"))
    order = build_order(source, 0, None)
    loader = build_loader(
        OrderedDataset(source, order, SamplePreparation(processor)), [[0, 1, 2], [3, 4, 5]], num_workers, False
    )
    batches = list(loader)
    assert [name for batch in batches for name in batch["names"]] == [source.name(order[n]) for n in range(6)]
    assert all(batch["weights"].all() for batch in batches)


def parquet(first, last):
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": FILES[first:last], "text": TEXTS[first:last]}), buffer, row_group_size=2)
    return buffer.getvalue().to_pybytes()


def run_script(script, endpoint, home, *arguments):
    """In a process of its own: the library reads its environment when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**environment, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


SCRIPT = """
import hashlib, json, sys
from vlv.data.formats import SourceSettings
from vlv.data.sources import open_source
try:
    source = open_source(sys.argv[1], SourceSettings(captions=True, caption_column="text", **json.loads(sys.argv[2])))
    rows = [source.read(n) for n in range(len(source))]
    rows = [[source.name(n), hashlib.md5(image).hexdigest(), text] for n, (image, text) in enumerate(rows)]
    print(json.dumps(rows))
except ValueError as error:
    print(json.dumps(str(error)))
"""


def test_a_dataset_of_the_hub(tmp_path):
    """Through a server of its own: downloaded once, then read from the cache without asking for the data again."""
    expected = [[f"owner/name:train:{n}", hashlib.md5(data).hexdigest(), TEXTS[n]] for n, data in enumerate(FILES)]
    with serve_dataset({"train-00000-of-00001.parquet": parquet(0, 7)}) as (endpoint, requests):

        def run(path, **settings):
            return run_script(SCRIPT, endpoint, tmp_path, path, json.dumps(settings))

        assert run("hub:owner/name") == expected
        fetched = [line for line in requests if line.startswith("GET") and "parquet" in line]
        assert len(fetched) == 1
        assert run("hub:owner/name", revision=COMMIT) == expected
        assert [line for line in requests if line.startswith("GET") and "parquet" in line] == fetched
        message = run("hub:owner/name", split="dev")
        assert message.startswith("hub:owner/name cannot be loaded (Unknown split")
        assert message.endswith("check the name, data_subset, data_split=dev and data_revision")
        assert "hub:other/gone cannot be loaded" in run("hub:other/gone")


def test_image_files_of_the_hub(tmp_path):
    """Rows have paths of the library's cache, and no bytes."""
    lines = "\n".join(json.dumps({"file_name": f"{n}.png", "text": TEXTS[n]}) for n in range(3))
    files = {f"{n}.png": FILES[n] for n in range(3)} | {"metadata.jsonl": lines.encode()}
    with serve_dataset(files) as (endpoint, _):
        found = run_script(SCRIPT, endpoint, tmp_path, "hub:owner/name", "{}")
    assert found == [[f"owner/name:train:{n}", hashlib.md5(FILES[n]).hexdigest(), TEXTS[n]] for n in range(3)]


STREAM = """
import json, sys
from vlv.data.formats import SourceSettings
from vlv.data.order import BatchPlan, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.streaming import HeldStream, StreamedDataset, StreamSettings
from vlv.models.image_processor import VLVImageProcessor
settings = StreamSettings(1, SourceSettings(caption_column="text", captions=True), window=3)
processor = VLVImageProcessor(8, 8)
def names(processes, process, start, steps):
    plan = BatchPlan(4, processes, process, 2)
    dataset = StreamedDataset(
        sys.argv[1], training_positions(plan, start, steps), SamplePreparation(processor), settings
    )
    return {n: name for batch in dataset for n, name in zip(batch["positions"], batch["names"], strict=True)}
try:
    held = HeldStream(sys.argv[1], 5, settings)
    print(json.dumps({
        "whole": names(1, 0, 0, 4), "rest": names(1, 0, 8, 2), "shares": [names(2, n, 0, 4) for n in range(2)],
        "held": [[held.name(n), held.read(n).caption] for n in range(len(held))],
    }))
except ValueError as error:
    print(json.dumps(str(error)))
"""


def test_a_streamed_dataset_of_the_hub(tmp_path):
    """Each row once an epoch, the same for two processes and after a resume; nothing is kept."""
    files = {f"train-0000{n}-of-00002.parquet": parquet(4 * n, 7 if n else 4) for n in range(2)}
    with serve_dataset(files) as (endpoint, _):
        found = run_script(STREAM, endpoint, tmp_path, "hub-stream:owner/name")
        rows = [f"owner/name:train:0:{n}" for n in range(4)] + [f"owner/name:train:1:{n}" for n in range(3)]
        epochs = [[found["whole"][str(n)] for n in range(start, start + 7)] for start in (0, 7)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == rows
        assert epochs[0] != epochs[1]
        assert found["rest"] == {str(n): found["whole"][str(n)] for n in range(8, 16)}
        assert found["shares"][0] | found["shares"][1] == found["whole"]
        assert found["held"] == [[name, f"picture {n}"] for n, name in enumerate(rows[:5])]
        assert not list(tmp_path.rglob("*.parquet")) + list(tmp_path.rglob("*.arrow"))
        assert "cannot be streamed" in run_script(STREAM, endpoint, tmp_path, "hub-stream:other/gone")


def test_a_stream_of_the_hub_that_breaks():
    """Whatever the library raises, once it has given up: the run ends, and no process goes on without the others."""

    class Rows:
        def shard(self, *_, **__):
            return self

        def iter(self, _):
            yield pa.table({"image": FILES[:2]})
            raise RuntimeError("the server\nis gone")

    stream = object.__new__(HubStream)
    stream._path, stream._settings, stream._label = "hub-stream:a/b", SourceSettings(), "a/b:train"
    stream._rows, stream.num_shards = Rows(), 2
    samples = stream.read([1, 0])
    assert [next(samples).name, next(samples).read().image] == ["a/b:train:1:0", FILES[1]]
    with pytest.raises(StreamBrokenError, match="hub-stream:a/b broke off: the server is gone"):
        next(samples)


@pytest.mark.parametrize("path", ["hub:", "hub:name", "hub:a/b/c"])
def test_hub_paths(path):
    for use in (open_source, check_source):
        with pytest.raises(ValueError, match="names no dataset of the hub: write hub:owner/name"):
            use(path)


def test_a_mixture_with_splits(tmp_path):
    DatasetDict(train=dataset(), test=dataset(2)).save_to_disk(tmp_path / "dict")
    entries = [{"path": str(tmp_path / "dict"), "name": split, "data_split": split} for split in ("train", "test")]
    (tmp_path / "m.yaml").write_text(json.dumps({"sources": entries}))
    source = open_source(str(tmp_path / "m.yaml"), PAIRS)
    assert len(source) == 9
    assert source.name(8) == "test:test:1"
    assert source.read(8).caption == "picture 1"
