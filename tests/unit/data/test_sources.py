import json
import logging
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data.formats import SourceSettings
from vlv.data.sample import BadSample
from vlv.data.sources import open_source
from vlv.data.transforms import decode_image

from .pictures import encode, picture, write_tar


def pairs_of(source):
    return {source.name(index): source.read(index) for index in range(len(source))}


def pair_folder(folder, captions, name="captions.json"):
    (folder / name).write_text(captions if isinstance(captions, str) else json.dumps(captions))
    return open_source(str(folder), SourceSettings(captions=True))


def test_folder(folder):
    samples = pairs_of(open_source(str(folder)))
    assert list(samples) == ["a.jpg", "b.png", "e.tiff", "sub/c.PNG", "sub/deep/d.webp"]
    assert samples["b.png"] == ((folder / "b.png").read_bytes(), None)


def test_folder_reports_unreadable_files(folder):
    (folder / "gone.png").symlink_to(folder / "nowhere")
    source = open_source(str(folder))
    with pytest.raises(BadSample, match="cannot be read: No such file"):
        source.read(3)


def test_folder_with_captions_json(folder, caplog):
    captions = {"./a.jpg": "ein Bär", "sub/c.PNG": "two", "b.png": None, "lost.png": "x", str(folder / "e.tiff"): "abs"}
    samples = pairs_of(pair_folder(folder, captions))
    assert {name: sample.caption for name, sample in samples.items()} == {
        "a.jpg": "ein Bär", "e.tiff": "abs", "sub/c.PNG": "two"
    }  # fmt: skip
    assert samples["a.jpg"].image == (folder / "a.jpg").read_bytes()
    assert "2 of 5 images have no caption and are left out, as b.png" in caplog.text
    assert "1 of 4 captions have no image, as lost.png" in caplog.text


@pytest.mark.parametrize(("image", "caption"), [("file_name", "caption"), ("image", "text"), ("image", "caption")])
def test_folder_with_captions_jsonl(folder, image, caption):
    lines = [json.dumps({image: name, caption: f"of {name}"}) for name in ("e.tiff", "a.jpg")]
    samples = pairs_of(pair_folder(folder, "\n".join(lines) + "\n\n", "captions.jsonl"))
    assert {name: sample.caption for name, sample in samples.items()} == {"a.jpg": "of a.jpg", "e.tiff": "of e.tiff"}


@pytest.mark.parametrize(
    ("captions", "match"),
    [
        ({"other.jpg": "x"}, "names none of the 5 images .* it has 'other.jpg', and an image there is 'a.jpg'"),
        ("{", r"captions\.json is not valid JSON"),
        ("3", r"holds a number: wanted"),
    ],
)
def test_folder_with_useless_captions(folder, captions, match):
    with pytest.raises(ValueError, match=match):
        pair_folder(folder, captions)


def test_folder_with_a_caption_that_is_no_text(folder):
    """It is a matter of one sample: the others are read, and an odd name is a caption without an image."""
    source = pair_folder(folder, '{"a.jpg": "\\ud800", "b.png": "fine", "\\ud800.png": "x"}')
    assert [source.read(index).caption for index in range(len(source))] == ["\ud800", "fine"]
    # A pair is one character, and an escaped backslash before a u is no escape of a character.
    source = pair_folder(folder, r'{"a.jpg": "\ud83d\ude00", "b.png": "\\ud800"}')
    assert [source.read(index).caption for index in range(len(source))] == ["\U0001f600", r"\ud800"]
    source = pair_folder(folder, r'{"a.jpg": "\ud83d\ude00\ude00", "b.png": "\uDFFF"}')
    assert [source.read(index).caption for index in range(len(source))] == ["\U0001f600\ude00", "\udfff"]
    (folder / "captions.json").unlink()
    lines = ['{"image": "a.jpg", "caption": "\\ud800"}', '{"image": "\\ud800.png", "caption": "x"}']
    assert pair_folder(folder, "\n".join(lines), "captions.jsonl").read(0).caption == "\ud800"


def test_folder_with_a_broken_caption_line(folder):
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        pair_folder(folder, '{"image": "a.jpg", "caption": "a"}\n{\n', "captions.jsonl")


def test_folder_without_captions(folder):
    with pytest.raises(ValueError, match=r"has no captions: put captions\.json"):
        open_source(str(folder), SourceSettings(captions=True))


def make_shards(root, count=3, per_shard=4):
    for shard in range(count):
        members = []
        for number in range(per_shard):
            key = f"{shard * per_shard + number:04d}"
            members += [(f"{key}.jpg", encode(picture(number), "JPEG")), (f"{key}.txt", f"caption {key}\n".encode())]
        write_tar(root / f"s-{shard:03d}.tar", members)


def test_tar_folder_pattern_list_and_file(tmp_path):
    make_shards(tmp_path)
    folder = open_source(str(tmp_path), SourceSettings(captions=True, cache_dir=str(tmp_path / "cache")))
    assert folder.shard_sizes.tolist() == [4, 4, 4]
    samples = pairs_of(folder)
    assert list(samples)[:2] == ["s-000.tar/0000.jpg", "s-000.tar/0001.jpg"]
    assert [sample.caption for sample in samples.values()] == [f"caption {number:04d}" for number in range(12)]
    assert samples["s-001.tar/0005.jpg"].image == encode(picture(1), "JPEG")
    for path, count in (("s-{000..001}.tar", 8), ("*.tar", 12), ("s-002.tar", 4)):
        assert len(open_source(str(tmp_path / path), SourceSettings(cache_dir=str(tmp_path / "cache")))) == count
    both = f"{tmp_path}/s-000.tar,{tmp_path}/s-002.tar"
    assert len(open_source(both, SourceSettings(cache_dir=str(tmp_path / "cache")))) == 8


def test_tar_json_captions_and_missing_ones(tmp_path):
    image = encode(picture())
    members = [
        ("a.png", image), ("a.json", b'{"caption": "from json"}'),
        ("b.png", image),
        ("c.png", image), ("c.json", b'{"text": "other key"}'),
        ("d.png", image), ("d.json", b"{"),
        ("e.png", image), ("e.txt", b"\xff\xfe"),
        ("f.png", image), ("f.txt", b"text first"), ("f.json", b'{"caption": "second"}'),
    ]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    source = open_source(str(tmp_path), SourceSettings(captions=True, cache_dir=str(tmp_path / "cache")))
    assert source.read(0).caption == "from json"
    assert source.read(5).caption == "text first"
    for index, reason in ((1, "has the image's key"), (2, "no text under 'caption'"), (3, "damaged"), (4, "not UTF-8")):
        with pytest.raises(BadSample, match=reason):
            source.read(index)
    assert open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache"))).read(1).caption is None


def test_open_shards_are_closed_in_silence_at_exit(tmp_path):
    """Also where the interpreter has emptied the modules before the source goes, as it does once these are loaded."""
    write_tar(tmp_path / "x.tar", [("a.png", encode(picture()))])
    script = (
        "import sys, vlv.data.dataset, vlv.data.sources as data; source = data.open_source(sys.argv[1]); source.read(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.tar"], env=os.environ | {"VLV_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_tar_descriptors_belong_to_a_process(tmp_path):
    make_shards(tmp_path, count=1)
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))
    expected = source.read(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if source.read(0) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert source.read(0) == expected


def test_tar_that_shrank_after_indexing(tmp_path):
    make_shards(tmp_path, count=1)
    source = open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))
    os.truncate(tmp_path / "s-000.tar", 600)
    with pytest.raises(BadSample, match="cut or replaced"):
        source.read(3)


RAW = np.random.default_rng(0).integers(0, 256, (3, 6, 8), dtype=np.uint8)


def npy():
    import io

    buffer = io.BytesIO()
    np.save(buffer, RAW)
    return buffer.getvalue()


def image_columns():
    png = encode(picture())
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return {
        "encoded": (pa.array([png] * 4, pa.binary()), png),
        "large": (pa.array([png] * 4, pa.large_binary()), png),
        "struct": (pa.array([{"bytes": png, "path": "a.png"}] * 4, struct), png),
        "raw": (pa.array([RAW.tobytes()] * 4, pa.binary()), RAW),
        "raw-fixed": (pa.array([RAW.tobytes()] * 4, pa.binary(RAW.size)), RAW),
        "npy": (pa.array([npy()] * 4, pa.binary()), npy()),
    }


@pytest.mark.parametrize("kind", image_columns())
def test_parquet_images(tmp_path, kind):
    column, expected = image_columns()[kind]
    text = pa.large_string() if kind == "large" else pa.string()
    table = pa.table({"image": column, "caption": pa.array(["a", "b", "", None], text)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    source = open_source(str(tmp_path), SourceSettings(captions=True, raw_image_shape=(3, 6, 8)))
    assert source.shard_sizes.tolist() == [3, 1]
    image, caption = source.read(1)
    assert caption == "b"
    assert np.array_equal(image, expected) if isinstance(expected, np.ndarray) else image == expected
    assert source.name(3) == "x.parquet:3"
    with pytest.raises(BadSample, match="caption is missing"):
        source.read(3)


def test_parquet_columns_may_have_a_dot(tmp_path):
    """The memory for decoded row groups follows from the column's size, found in the footer by its name."""
    for name in ("image", "picture.png"):
        pq.write_table(pa.table({name: [bytes(3 * 20 * 20)] * 4}), tmp_path / f"{name}.parquet", use_dictionary=False)
    weights = [
        open_source(str(tmp_path / f"{name}.parquet"), SourceSettings(image_column=name))._cache_bytes
        for name in ("image", "picture.png")
    ]
    assert weights[0] == weights[1] > 1000


def test_parquet_raw_pixels_of_another_size(tmp_path):
    pq.write_table(pa.table({"image": [bytes(3 * 20 * 20)]}), tmp_path / "x.parquet")
    with pytest.raises(BadSample, match=r"raw pixels of 20 x 20 need raw_image_size=\[20,20\]"):
        open_source(str(tmp_path), SourceSettings(raw_image_shape=(3, 6, 8))).read(0)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP", "JPEG", "PNG", "GIF", "AVIF"])
def test_parquet_files_of_the_length_of_raw_pixels_are_files(tmp_path, kind):
    data = encode(picture(), kind)
    pq.write_table(pa.table({"image": [data]}), tmp_path / "x.parquet")
    shape = (3, 1, len(data) // 3)
    source = open_source(
        str(tmp_path), SourceSettings(raw_image_shape=shape if len(data) % 3 == 0 else (1, 1, len(data)))
    )
    assert source.read(0).image == data


def test_parquet_raw_pixels_are_read_only_as_the_settings_say(tmp_path):
    """Channels first and channels last have one length: taken for the other, a picture is noise."""
    last = RAW.transpose(1, 2, 0).copy()
    pq.write_table(pa.table({"image": [last.tobytes()]}), tmp_path / "x.parquet")
    assert np.array_equal(open_source(str(tmp_path), SourceSettings(raw_image_shape=(6, 8, 3))).read(0).image, last)
    square = np.zeros((384, 384, 3), np.uint8)
    pq.write_table(pa.table({"image": [square.tobytes()]}), tmp_path / "x.parquet")
    with pytest.raises(BadSample, match=r"raw_image_size=\[384,384\], or \[384,384,3\] where the channels come last"):
        open_source(str(tmp_path)).read(0)


def test_parquet_files_and_nulls(tmp_path):
    for number in range(2):
        table = pa.table({"picture": pa.array([b"one", None, b"three"]), "number": [1, 2, 3]})
        (tmp_path / "deep").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "deep" / f"{number}.parquet", row_group_size=2)
    for path in (str(tmp_path), f"{tmp_path}/deep/*.parquet"):
        source = open_source(path, SourceSettings(image_column="picture"))
        assert source.shard_sizes.tolist() == [2, 1, 2, 1]
    assert source.name(4).endswith("1.parquet:1")
    assert source.read(5).image == b"three"
    with pytest.raises(BadSample, match="image is missing"):
        source.read(4)
    assert len(open_source(str(tmp_path / "deep" / "0.parquet"), SourceSettings(image_column="picture"))) == 3


def test_parquet_cache_holds_the_pool(tmp_path, monkeypatch):
    table = pa.table({"image": pa.array([bytes(1000)] * 100, pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10, use_dictionary=False)
    monkeypatch.setattr("vlv.data.parquet._MIN_CACHE", 0)
    source = open_source(str(tmp_path), SourceSettings(pool_samples=30))
    for index in range(100):
        source.read(index)
    assert 3 <= len(source._groups) <= 7
    assert list(source._groups)[-1] == 9


def test_parquet_damaged_row_group(tmp_path):
    table = pa.table({"image": pa.array([os.urandom(5000) for _ in range(20)], pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10, compression="zstd")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[4:200] = bytes(196)
    (tmp_path / "x.parquet").write_bytes(data)
    source = open_source(str(tmp_path))
    for index in (3, 4):
        with pytest.raises(BadSample, match="row group 0 cannot be read"):
            source.read(index)
    assert source.read(15).image == table["image"][15].as_py()


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"img": [b"x"], "text": ["y"]}, "no column 'image' and no 'caption'; its columns are img, text"),
        ({"image": [b"x"], "text": ["y"]}, "no column 'caption'; its columns are image, text"),
        ({"image": [1.5], "caption": ["y"]}, "column 'image' is double, wanted binary"),
        ({"image": [b"x"], "caption": [1]}, "column 'caption' is int64, wanted string"),
    ],
)
def test_parquet_columns(tmp_path, columns, match):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=match):
        open_source(str(tmp_path), SourceSettings(captions=True))


def test_parquet_caption_that_is_not_utf8(tmp_path):
    captions = pa.array([b"fine", b"\xff\xfe"]).cast(pa.binary())
    texts = pa.StringArray.from_buffers(2, *captions.buffers()[1:])
    pq.write_table(pa.table({"image": [b"x"] * 2, "caption": texts}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path), SourceSettings(captions=True))
    assert source.read(0).caption == "fine"
    with pytest.raises(BadSample, match="the caption is not UTF-8"):
        source.read(1)


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as parquet"):
        open_source(str(tmp_path))


def test_parquet_without_rows(tmp_path):
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        open_source(str(tmp_path))


def test_auto_prefers_shards_to_their_metadata(tmp_path, caplog):
    make_shards(tmp_path, count=1)
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "s-000.parquet")
    assert len(open_source(str(tmp_path), SourceSettings(cache_dir=str(tmp_path / "cache")))) == 4
    assert "reading the .tar shards; 1 .parquet files are left out" in caplog.text


def test_auto_takes_images_beside_metadata(folder, caplog):
    pq.write_table(pa.table({"url": ["a"]}), folder / "meta.parquet")
    assert len(open_source(str(folder))) == 5
    with pytest.raises(ValueError, match="its columns are url"):
        open_source(str(folder), SourceSettings(data_format="parquet"))


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("gone", "gone does not exist; accepted are a folder of images"),
        ("empty", "empty holds nothing that can be read; accepted are"),
        ("notes.txt", "notes.txt is of no format that can be read; accepted"),
        ("x.tar.gz", "by index .it is compressed: unpack it"),
        ("*.tar", "does not exist"),
    ],
)
def test_nothing_to_read(tmp_path, path, match):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=match):
        open_source(str(tmp_path / path))


def test_format_that_is_not_there(folder):
    with pytest.raises(ValueError, match=r"holds no \.tar shard \(there are 5 images: set data_format\)"):
        open_source(str(folder), SourceSettings(data_format="webdataset"))


def test_stream_is_refused():
    with pytest.raises(ValueError, match="can only be streamed"):
        open_source("pipe:cat x.tar")


def test_no_warning_for_sound_data(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_shards(tmp_path / "tars")
    open_source(str(folder))
    open_source(str(tmp_path / "tars"), SourceSettings(captions=True, cache_dir=str(tmp_path / "cache")))
    assert not caplog.records


@pytest.mark.parametrize(("ending", "kind"), [("avif", "AVIF"), ("jfif", "JPEG"), ("JPE", "JPEG"), ("jp2", "JPEG2000")])
def test_every_extension_of_what_is_read(tmp_path, ending, kind):
    data = encode(picture(), kind)
    (tmp_path / f"a.{ending}").write_bytes(data)
    write_tar(tmp_path / "shards" / "x.tar", [(f"a.{ending}", data)])
    for path in (tmp_path / f"a.{ending}", tmp_path / "shards"):
        source = open_source(str(path), SourceSettings(cache_dir=str(tmp_path / "cache")))
        assert decode_image(source.read(0).image).size == (40, 30)


def test_what_is_left_out_is_named_with_counts(folder, tmp_path, caplog):
    for name in ("x.heic", "y.heic", "README"):
        (folder / name).write_bytes(b"")
    open_source(str(folder))
    assert "left out, as their kinds cannot be read: 2 .heic, 1 without an extension" in caplog.text
    members = [("a.jpg", b"1"), ("a.cls", b"5"), ("b.heic", b"2"), ("b.txt", b"b"), ("c", b"3")]
    write_tar(tmp_path / "shards" / "x.tar", members)
    (tmp_path / "shards" / "y.tar.gz").write_bytes(b"")
    open_source(str(tmp_path / "shards"), SourceSettings(cache_dir=str(tmp_path / "cache")))
    assert "left out, as their kinds cannot be read: 1 .tar.gz" in caplog.text
    assert "left out of the shards, as their kinds cannot be read: 1 .heic, 1 without an extension" in caplog.text


def test_a_folder_of_unreadable_kinds_says_so(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds nothing that can be read \(it has 1 \.heic\)"):
        open_source(str(tmp_path))
