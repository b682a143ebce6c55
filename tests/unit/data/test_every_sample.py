"""Every sample once an epoch and with its own caption: every kind of source, and any ranks, workers and resumes."""

import json
import random
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.mixture import MixedSource, build_order
from vlv.data.order import BatchPlan, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.sources import open_source
from vlv.models.image_processor import VLVImageProcessor

from .pictures import encode, write_tar
from .server import serve

COUNT = 24
SHARDS = [range(5), range(5, 12), range(12, 13), range(13, 24)]  # of uneven sizes
FILES = [encode(Pictures.new("RGB", (20 + number, 40 - number), (10 * number,) * 3)) for number in range(COUNT)]
TEXTS = [f"picture {number}" for number in range(COUNT)]
KINDS = ["folder", "tar", "parquet", "arrow", "saved", "http", "http_parquet", "mixture"]
BATCH = 12


class Numbers:
    """The number in a caption is its only token."""

    pad_token_id = 0

    def __call__(self, text, **_):
        return {"input_ids": [int(text.split()[1])]}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The same pairs in every kind of source."""
    root = tmp_path_factory.mktemp("pairs")
    folder = root / "folder"
    folder.mkdir()
    for number, content in enumerate(FILES):
        (folder / f"{number:02}.png").write_bytes(content)
    (folder / "captions.json").write_text(json.dumps({f"{n:02}.png": text for n, text in enumerate(TEXTS)}))
    for shard, numbers in enumerate(SHARDS):
        pairs = [((f"{n:02}.png", FILES[n]), (f"{n:02}.txt", TEXTS[n].encode())) for n in numbers]
        write_tar(root / "tar" / f"{shard}.tar", [member for pair in pairs for member in pair])
    tables = [pa.table({"image": FILES[part], "caption": TEXTS[part]}) for part in (slice(0, 10), slice(10, COUNT))]
    (root / "parquet").mkdir()
    (root / "arrow").mkdir()
    for file, table in enumerate(tables):
        pq.write_table(table, root / "parquet" / f"{file}.parquet", row_group_size=4)
        with pa.ipc.new_file(str(root / "arrow" / f"{file}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    features = Features({"image": Image(), "caption": Value("string")})
    rows = {"image": [{"bytes": content, "path": None} for content in FILES], "caption": TEXTS}
    Dataset.from_dict(rows, features=features).save_to_disk(root / "saved", num_shards=3)
    entries = f"- {{path: {root}/tar, weight: 2, name: tar}}\n- {{path: {root}/parquet, weight: 1, name: table}}\n"
    (root / "mixture.yaml").write_text(f"sources:\n{entries}")
    with serve() as server:
        for path in [*(root / "tar").iterdir(), *(root / "parquet").iterdir()]:
            server.files[str(path.relative_to(root))] = path.read_bytes()
        yield {kind: str(root / kind) for kind in KINDS} | {
            "mixture": str(root / "mixture.yaml"),
            "http": f"{server.url}/tar/{{0..3}}.tar",
            "http_parquet": f"{server.url}/parquet/{{0..1}}.parquet",
        }


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLV_CACHE_DIR", str(tmp_path / "cache"))
    signal.alarm(120)  # an end for a loader that hangs
    yield
    signal.alarm(0)


def open_dataset(path):
    """As a process that starts opens it: source, order, and the samples by position."""
    source = open_source(path, SourceSettings(captions=True))
    order = build_order(source, 7, None)
    prepare = SamplePreparation(VLVImageProcessor(8, 16), CaptionTokenizer(Numbers(), 3, False, 0))
    return source, order, OrderedDataset(source, order, prepare)


def run(path, numbers, steps):
    """Train in stretches of other ranks, workers and micro-batches each; returns (source, number) by position."""
    seen, done = {}, 0
    while done < steps:
        world, workers, stretch = numbers.choice([1, 2, 3, 4]), numbers.choice([0, 1, 3]), numbers.randint(1, 2)
        micro = numbers.choice([size for size in range(1, BATCH // world + 1) if BATCH // world % size == 0])
        for rank in range(world):
            plan = BatchPlan(BATCH, world, rank, micro)
            dataset = open_dataset(path)[2]
            for batch in build_loader(dataset, training_positions(plan, done * BATCH, stretch), workers, False):
                assert batch["errors"] == [None] * micro
                shades = batch["decoder_pixels"][:, 0, 0, 0] // 10
                assert torch.equal(shades.long(), batch["labels"][:, 0])  # each picture with its own caption
                for position, source, number in zip(
                    batch["positions"], batch["sources"].tolist(), shades.tolist(), strict=True
                ):
                    assert position not in seen
                    seen[position] = (source, number)
        done += stretch
    return [seen[position] for position in range(done * BATCH)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trial", range(2))
def test_each_sample_once_an_epoch_however_it_is_run(paths, kind, trial):
    seen = run(paths[kind], random.Random(f"{kind} {trial}"), steps=5)
    source = open_dataset(paths[kind])[0]
    shares = {number: [n for of, n in seen if of == number] for number in {of for of, _ in seen}}
    assert len(shares) == (2 if isinstance(source, MixedSource) else 1)
    for found in shares.values():
        epochs = [found[start : start + COUNT] for start in range(0, len(found), COUNT)]
        for epoch in epochs[:-1]:
            assert sorted(epoch) == list(range(COUNT))
        assert len(set(epochs[-1])) == len(epochs[-1])
    again = run(paths[kind], random.Random(f"{kind} {trial} again"), steps=5)
    assert again[: len(seen)] == seen[: len(again)]  # the same position is the same sample in any run


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_every_source_gives_the_samples_of_the_folder(paths, kind):
    """The same pixels, for both models, and the same captions."""

    def samples(path):
        dataset = open_dataset(path)[2]
        found = [dataset[position] for position in range(3 * COUNT)]  # of the mixture, an epoch of each source
        return {sample["caption_ids"][0]: sample for sample in found}

    expected, found = samples(paths["folder"]), samples(paths[kind])
    assert found.keys() == expected.keys() == set(range(COUNT))
    for number, sample in found.items():
        for key in ("decoder_pixels", "encoder_pixels", "crop"):
            assert torch.equal(sample[key], expected[number][key])
