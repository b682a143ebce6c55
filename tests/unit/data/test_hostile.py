"""Damaged and hostile files through every source: each is named with a reason, and its neighbours stay as they are."""

import io
import json
import random
import struct
import tarfile
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vlv.data.bad_samples import BadSampleLog, TooManyBadSamples
from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.files import is_stream
from vlv.data.formats import DecodeSettings, SourceSettings
from vlv.data.latent_cache import LatentFacts, schema, write_manifest
from vlv.data.mixture import build_order
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import BadSample
from vlv.data.sources import open_source
from vlv.data.streaming import StreamedDataset, StreamSettings
from vlv.data.transforms import decode_image
from vlv.losses import IGNORED
from vlv.models.image_processor import VLVImageProcessor

from .pictures import encode, picture
from .server import DiskFile, serve
from .test_captions import EOS, Words

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
FILES = {kind: encode(picture(3, (24, 16)), kind) for kind in KINDS}
GOOD = [(encode(picture(number, (24, 16))), f"good {number}") for number in range(2)]
PROCESSOR = VLVImageProcessor(8, 8)
DECODING = DecodeSettings(max_image_mib=12)


def png_bomb(side):
    """A PNG of side x side black pixels in some hundred bytes, as far as its header is read."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 5000))
        + chunk(b"IEND", b"")
    )


def mutated(stream):
    """An image file that something has happened to, and what."""
    kind = stream.choice(KINDS)
    data = bytearray(FILES[kind])
    what = stream.choice(("flip", "cut", "zeros", "empty", "text", "bomb", "insert", "other", "header"))
    if what == "flip":
        for _ in range(stream.randint(1, 8)):
            data[stream.randrange(len(data))] ^= 1 << stream.randrange(8)
    elif what == "header":
        data[stream.randrange(min(32, len(data)))] = stream.randrange(256)
    elif what == "cut":
        data = data[: stream.randrange(len(data))]
    elif what == "zeros":
        start = stream.randrange(len(data))
        data[start : start + 64] = bytes(min(64, len(data) - start))
    elif what == "insert":
        data[stream.randrange(len(data)) : 0] = stream.randbytes(stream.randint(1, 40))
    else:
        data = {"empty": b"", "text": b"<html>404</html>", "bomb": png_bomb(30_000), "other": stream.randbytes(200)}[
            what
        ]
    return bytes(data)


def caption(stream):
    """A caption as bytes, with what people and crawlers write."""
    return stream.choice(
        (
            b"a caption", b"", b"   \n\t ", b"\xff\xfe\x80", b"\xed\xa0\x80", b"a\0b\x1b[31mred", b"word " * 20_000,
            "\u202eright to left \ud83d".encode("utf-8", "surrogatepass"), b"<|endoftext|>", b"{not json",
        )
    )  # fmt: skip


def write_images(root, samples):
    names = [f"{number:04}.{('jpg', 'png', 'webp', 'tif', 'gif')[number % 5]}" for number in range(len(samples))]
    for name, (image, _) in zip(names, samples, strict=True):
        (root / name).write_bytes(image)
    texts = [text.decode("utf-8", "surrogateescape") for _, text in samples]
    return dict(zip(names, texts, strict=True))


def write_folder(root, samples, _):
    (root / "captions.json").write_text(json.dumps(write_images(root, samples)))
    return str(root)


def write_metadata(root, samples, _):
    texts = write_images(root, samples).items()
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in texts]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return str(root)


def write_sidecars(root, samples, _):
    for name, (_, text) in zip(write_images(root, samples), samples, strict=True):
        (root / name).with_suffix(".txt").write_bytes(text)
    return str(root)


def write_shard(root, samples, _):
    with tarfile.open(root / "0.tar", "w") as archive:
        for number, (image, text) in enumerate(samples):
            # Names that lead elsewhere are names, no more: nothing is ever unpacked.
            stem = ("{0:04}", "../{0:04}", "/etc/{0:04}", "a/../../{0:04}")[number % 4].format(number)
            for name, data in ((f"{stem}.jpg", image), (f"{stem}.txt", text)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo(f"{number:04}l.jpg")
            link.type, link.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE)[number % 2], "/etc/passwd"
            archive.addfile(link)
    return str(root / "0.tar")


def table_of(samples):
    texts = pa.array([text for _, text in samples], type=pa.binary()).cast(pa.string(), safe=False)
    return pa.table({"image": pa.array([image for image, _ in samples], pa.binary()), "caption": texts})


def write_parquet(root, samples, _):
    pq.write_table(table_of(samples), root / "0.parquet", row_group_size=7)
    return str(root / "0.parquet")


def write_arrow(root, samples, _):
    write_table(root / "0.arrow", table_of(samples))
    return str(root / "0.arrow")


def write_table(path, table):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def write_latents(root, samples, _):
    facts, table = LatentFacts({"config_sha256": "a"}, 8, (2, 1, 1, 1), "fp16"), table_of(samples)
    columns = {
        "name": [f"{number:04}.png" for number in range(len(samples))],
        "image": table["image"],
        "crop": [[16, 24, 0, 2]] * len(samples),
        "moments": [np.ones(2, np.float16).tobytes()] * len(samples),
        "caption": pa.ListArray.from_arrays(np.arange(len(samples) + 1), table["caption"].combine_chunks()),
    }
    write_table(root / "0.arrow", pa.table(columns, schema=schema(True, facts)))
    write_manifest(root, facts, [{"file": "0.arrow", "samples": len(samples)}])
    return str(root)


def write_command(root, samples, _):
    return f"pipe:cat {write_shard(root, samples, _)}"


def write_hub_stream(root, samples, server):
    server.datasets["owner/name"] = write_parquet(root, samples, server)
    return "hub-stream:owner/name"


def served(write, prefix=""):
    """The file that `write` writes, at a URL."""

    def write_served(root, samples, server):
        path = Path(write(root, samples, server))
        name = f"{root.name}/{path.name}"
        server.files[name] = DiskFile(path)
        return f"{prefix}{server.url}/{name}"

    return write_served


CONTAINERS = {
    "webdataset": write_shard, "parquet": write_parquet, "arrow": write_arrow, "latents": write_latents,
    "command": write_command, "stream": served(write_shard, "stream:"), "http": served(write_shard),
    "http_parquet": served(write_parquet), "hub_stream": write_hub_stream,
}  # fmt: skip
WRITERS = {"folder": write_folder, "metadata": write_metadata, "sidecars": write_sidecars} | CONTAINERS


@pytest.fixture(scope="module")
def server():
    """Files on loopback, and what the hub has: its library reads the files as it does those of the hub."""
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        server.datasets, load = {}, datasets.load_dataset

        def load_dataset(name, _, *, split, revision, streaming):
            return load("parquet", data_files=server.datasets[name], split=split, streaming=streaming)

        patch.setattr(datasets, "load_dataset", load_dataset)
        yield server


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLV_CACHE_DIR", str(tmp_path / "cache"))


def read_all(path, tmp_path, count):
    """Every batch of one pass, in this process; of a stream six where the count is not known."""
    prepare = SamplePreparation(PROCESSOR, CaptionTokenizer(Words(), 9, True, EOS), DECODING)
    settings = SourceSettings(captions=True, cache_dir=str(tmp_path / "cache"))
    if is_stream(path):
        groups = [[n] for n in range(count or 6)]
        return list(StreamedDataset(path, groups, prepare, StreamSettings(0, settings, window=1)))
    source = open_source(path, settings)
    assert count in (None, len(source))
    order = build_order(source, 0, 1, shuffle=False)
    groups = [[n] for n in range(len(source))]
    return list(build_loader(OrderedDataset(source, order, prepare), groups, 0, False))


def check(kind, seed, count, tmp_path, server):
    stream = random.Random(seed)
    first, last = ((image, text.encode()) for image, text in GOOD)
    samples = [first, *((mutated(stream), caption(stream)) for _ in range(count)), last]
    batches = read_all(WRITERS[kind](tmp_path, samples, server), tmp_path, len(samples))
    assert len(batches) == len(samples)
    for batch in batches:
        (weight,), (error,) = batch["weights"].tolist(), batch["errors"]
        assert (weight == 1) == (error is None)
        assert error is None or (error.isprintable() and 3 < len(error) < 400), error
        assert not (error or "").startswith("unexpected"), error
    for place, (image, text) in ((0, GOOD[0]), (-1, GOOD[1])):
        batch = batches[place]
        assert batch["errors"] == [None]
        assert torch.equal(batch["encoder_pixels"][0], PROCESSOR(decode_image(image))["encoder_pixels"])
        if kind != "latents":
            assert torch.equal(batch["decoder_pixels"][0], PROCESSOR(decode_image(image))["decoder_pixels"])
        assert batch["input_ids"].tolist() == [[*(len(word) for word in text.split()), EOS]]
    return sum(batch["errors"] != [None] for batch in batches)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_hundred_mutations(kind, tmp_path, server):
    assert check(kind, f"few {kind}", 100, tmp_path, server) > 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_a_thousand_mutations(kind, tmp_path, server):
    assert check(kind, f"many {kind}", 1000, tmp_path, server) > 300


def check_containers(kind, seed, count, tmp_path, server):
    """Shards that something has happened to: opened with a reason or read, and no image with another's caption."""
    stream, pairs = random.Random(seed), [(encode(picture(n, (24, 16))), "word " * n + "end") for n in range(6)]
    pixels = [PROCESSOR(decode_image(image))["encoder_pixels"] for image, _ in pairs]
    reasons, read = [], 0
    for number in range(count):
        root = tmp_path / str(number)
        root.mkdir()
        path = CONTAINERS[kind](root, [(image, text.encode()) for image, text in pairs], server)
        (file,) = root.glob("0.*")
        data = bytearray(file.read_bytes())
        if stream.random() < 0.3:
            del data[stream.randrange(len(data)) :]
        else:
            for _ in range(stream.randint(1, 30)):
                data[stream.randrange(len(data))] = stream.randrange(256)
        file.write_bytes(data)
        try:
            batches = read_all(path, root, None)
        except ValueError as error:
            reasons.append(str(error))
            continue
        read += 1
        for batch in batches:
            if batch["weights"].item():
                found = [n for n, own in enumerate(pixels) if torch.equal(own, batch["encoder_pixels"][0])]
                assert found, batch["names"]
                words = int((batch["labels"][0] != IGNORED).sum()) - 1
                # A byte of a caption may be another now, which nothing can tell; a blank more or less is a word.
                assert abs(words - 1 - found[0]) <= 1, batch["names"]
            else:
                assert batch["errors"][0]
    assert not any("\n" in reason for reason in reasons)
    return len(reasons), read


@pytest.mark.parametrize("kind", CONTAINERS)
def test_damaged_containers(kind, tmp_path, server):
    stopped, read = check_containers(kind, f"few {kind}", 40, tmp_path, server)
    assert stopped + read == 40
    assert read


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTAINERS)
def test_many_damaged_containers(kind, tmp_path, server):
    stopped, read = check_containers(kind, f"many {kind}", 1000, tmp_path, server)
    assert stopped + read == 1000
    assert read


@pytest.mark.parametrize("kind", WRITERS)
def test_one_setting_stops_at_the_first(kind, tmp_path, server):
    samples = [(GOOD[0][0], b"fine"), (b"no image", b"bad"), (GOOD[1][0], b"fine")]
    batches = read_all(WRITERS[kind](tmp_path, samples, server), tmp_path, 3)
    log = BadSampleLog(tmp_path / "bad.jsonl", "train", 1, 0)
    with pytest.raises(TooManyBadSamples, match=r"not an image of a known format .*; max_bad_share=0 allows none\."):
        list(log.watch(batches))
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 1


def test_a_bomb_is_refused_by_its_header():
    """Before a byte of it is decoded: its pixels would take 2.7 GB."""
    bomb = png_bomb(30_000)
    assert len(bomb) < 200
    with pytest.raises(BadSample, match="too large: 30000 x 30000 pixels"):
        decode_image(bomb)
    assert np.asarray(decode_image(GOOD[0][0])).shape == (16, 24, 3)
