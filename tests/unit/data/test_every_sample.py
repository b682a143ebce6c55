"""Every sample once an epoch and with its own caption: every kind of source, and any ranks, workers and resumes."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.files import is_stream
from vlv.data.formats import SourceSettings
from vlv.data.latent_cache import LatentFacts, schema, write_manifest
from vlv.data.mixture import build_order
from vlv.data.order import BatchPlan, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.sources import open_source
from vlv.data.streaming import StreamedDataset, StreamSettings, build_stream_loader
from vlv.models.image_processor import VLVImageProcessor

from .pictures import encode, write_tar
from .server import serve
from .test_remote_s3 import BUCKET, bucket  # noqa: F401 - a fixture

COUNT = 24
SHARDS = [range(5), range(5, 12), range(12, 13), range(13, 24)]  # of uneven sizes


def picture_of(number):
    """A picture whose shade is its number."""
    return Pictures.new("RGB", (20 + number, 40 - number), (10 * number,) * 3)


FILES = [encode(picture_of(number)) for number in range(COUNT)]
TEXTS = [f"picture {number}" for number in range(COUNT)]
KINDS = [
    "folder", "tar", "parquet", "arrow", "saved", "http", "http_parquet", "bucket", "latents", "mixture", "command",
    "stream",
]  # fmt: skip
LATENTS = LatentFacts({"config_sha256": "a"}, 8, (2, 1, 1, 1), "fp32")
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
    write_latents(root / "latents")
    with serve() as server:
        for path in [*(root / "tar").iterdir(), *(root / "parquet").iterdir()]:
            server.files[str(path.relative_to(root))] = path.read_bytes()
        yield {kind: str(root / kind) for kind in KINDS} | {
            "mixture": str(root / "mixture.yaml"),
            "command": f"pipe:cat {root}/tar/{{0..3}}.tar",
            "stream": f"stream:{server.url}/tar/{{0..3}}.tar",
            "bucket": f"s3://{BUCKET}/tar/{{0..3}}.tar",
            "http": f"{server.url}/tar/{{0..3}}.tar",
            "http_parquet": f"{server.url}/parquet/{{0..1}}.parquet",
        }


def write_latents(folder):
    """A cache as `vlv data latents` writes it, whose moments are the sample's number."""
    folder.mkdir()
    files = []
    for shard, numbers in enumerate(SHARDS):
        columns = {
            "name": [f"{number:02}.png" for number in numbers],
            "image": [encode(Pictures.new("RGB", (8, 8), (10 * number,) * 3)) for number in numbers],
            "crop": [VLVImageProcessor(8, 16)(picture_of(number))["crop"].tolist() for number in numbers],
            "moments": [torch.full(LATENTS.shape, float(number)).numpy().tobytes() for number in numbers],
            "caption": [[TEXTS[number]] for number in numbers],
        }
        table = pa.table(columns, schema=schema(True, LATENTS))
        files.append({"file": f"{shard}.arrow", "samples": len(table)})
        with pa.ipc.new_file(str(folder / f"{shard}.arrow"), table.schema) as writer:
            writer.write_table(table)
    write_manifest(folder, LATENTS, files)


@pytest.fixture
def path(paths, kind, request):
    """The path of a kind; the bucket is filled where it is wanted, as its server is no part of the package."""
    if kind == "bucket":
        client = request.getfixturevalue("bucket")
        for shard in range(len(SHARDS)):
            content = Path(paths["tar"], f"{shard}.tar").read_bytes()
            client.put_object(Bucket=BUCKET, Key=f"tar/{shard}.tar", Body=content)
    return paths[kind]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLV_CACHE_DIR", str(tmp_path / "cache"))


def preparation():
    return SamplePreparation(VLVImageProcessor(8, 16), CaptionTokenizer(Numbers(), 3, False, 0))


def open_dataset(path):
    """As a process that starts opens it: the source, and its samples by position."""
    source = open_source(path, SourceSettings(captions=True))
    return source, OrderedDataset(source, build_order(source, 7, None), preparation())


def load(path, micro_batches, workers):
    """The micro-batches of one process."""
    if not is_stream(path):
        return build_loader(open_dataset(path)[1], micro_batches, workers, False)
    settings = StreamSettings(7, SourceSettings(captions=True), window=6, num_threads=max(1, workers))
    dataset = StreamedDataset(path, micro_batches, preparation(), settings)
    return build_stream_loader(dataset, False) if workers else dataset


def run(path, numbers, steps):
    """Train in stretches of other ranks, workers and micro-batches each; returns (source, number) by position."""
    seen, done = {}, 0
    while done < steps:
        world, workers, stretch = numbers.choice([1, 2, 3, 4]), numbers.choice([0, 1, 3]), numbers.randint(1, 2)
        micro = numbers.choice([size for size in range(1, BATCH // world + 1) if BATCH // world % size == 0])
        for rank in range(world):
            plan = BatchPlan(BATCH, world, rank, micro)
            for batch in load(path, training_positions(plan, done * BATCH, stretch), workers):
                assert batch["errors"] == [None] * micro
                shades = batch["encoder_pixels"][:, 0, 0, 0] // 10
                assert torch.equal(shades.long(), batch["labels"][:, 0])  # each picture with its own caption
                assert torch.equal(numbers_of(batch), batch["labels"][:, 0])
                for position, source, number in zip(
                    batch["positions"], batch["sources"].tolist(), shades.tolist(), strict=True
                ):
                    assert position not in seen
                    seen[position] = (source, number)
        done += stretch
    return [seen[position] for position in range(done * BATCH)]


def numbers_of(batch):
    """What the decoder's pixels, or the moments in their place, say of the samples' numbers."""
    pixels = batch["decoder_pixels"]
    return (pixels.flatten(1)[:, 0] / (10 if pixels.dtype == torch.uint8 else 1)).long()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trial", range(2))
def test_each_sample_once_an_epoch_however_it_is_run(path, kind, trial):
    seen = run(path, random.Random(f"{kind} {trial}"), steps=5)
    shares = {number: [n for of, n in seen if of == number] for number in {of for of, _ in seen}}
    assert len(shares) == (2 if kind == "mixture" else 1)
    for found in shares.values():
        epochs = [found[start : start + COUNT] for start in range(0, len(found), COUNT)]
        for epoch in epochs[:-1]:
            assert sorted(epoch) == list(range(COUNT))
        assert len(set(epochs[-1])) == len(epochs[-1])
    again = run(path, random.Random(f"{kind} {trial} again"), steps=5)
    assert again[: len(seen)] == seen[: len(again)]  # the same position is the same sample in any run


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_every_source_gives_the_samples_of_the_folder(path, paths, kind):
    """The same pixels, for both models, and the same captions."""

    def samples(path):
        positions = range(3 * COUNT)  # of the mixture, an epoch of each source
        found = {}
        for batch in load(path, [[position] for position in positions], 0):
            found[batch["labels"].item()] = batch
        return found

    expected, found = samples(paths["folder"]), samples(path)
    assert found.keys() == expected.keys() == set(range(COUNT))
    for number, batch in found.items():
        assert numbers_of(batch).item() == number
        for key in ("encoder_pixels", "crops") if kind == "latents" else ("decoder_pixels", "encoder_pixels", "crops"):
            assert torch.equal(batch[key], expected[number][key])
