"""Captions of a folder of images, in every form that people have them in."""

import csv
import json
import logging
import subprocess
import sys
import tracemalloc
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data.caption_file import caption_entries, read_captions
from vlv.data.formats import SourceSettings
from vlv.data.sample import BadSample
from vlv.data.sources import check_source, open_source

from .pictures import encode, picture, write_tar

PAIRS = SourceSettings(captions=True)


@pytest.fixture
def make(tmp_path):
    """Write files: an image for each name that ends like one, a text as it is, anything else as JSON."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / "data")

    return write


def captions_of(path, settings=PAIRS):
    source = open_source(path, settings)
    return {source.name(index): source.read(index).caption for index in range(len(source))}


def jsonl(*records):
    return "\n".join(json.dumps(record) for record in records)


def test_text_files_beside_images(make, caplog):
    """The rule of tars: the exact stem, dots and all, in any folder; then webdataset's key where one image has it."""
    root = make({
        "a.jpg": b"1", "a.txt": "of a\n",
        "sub/photo_2.5mm.JPG": b"2", "sub/photo_2.5mm.TXT": "of the lens",
        "sub/deep/1.left.png": b"3", "sub/deep/1.txt": "by its key",
        "sub/b.jpg": b"4", "sub/notes.txt": "of nothing",
        "other/a.jpg": b"5",
    })  # fmt: skip
    assert captions_of(root) == {
        "a.jpg": "of a",
        "sub/photo_2.5mm.JPG": "of the lens",
        "sub/deep/1.left.png": "by its key",
    }
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}: 2 of 5 images have no caption and are left out, as other/a.jpg"
    ]
    check_source(root, PAIRS)


def test_a_text_file_that_may_be_of_two_images(make, caplog):
    root = make({"1.jpg": b"1", "1.png": b"2", "1.txt": "x", "2.jpg": b"3", "2.txt": "y", "3.jpg": b"4", "3.png": b"5"})
    assert captions_of(root) == {"2.jpg": "y"}
    assert "2 of 5 images are left out, as what lies beside them may be another's caption, as 1.jpg" in caplog.text
    assert "2 of 5 images have no caption and are left out, as 3.jpg" in caplog.text
    assert captions_of(f"{root}/*.jpg") == {"1.jpg": "x", "2.jpg": "y"}


def test_two_text_files_for_one_image(make, caplog):
    root = make({"1.jpg": b"1", "1.txt": "x", "1.TXT": "y", "2.jpg": b"3", "2.txt": "y"})
    assert captions_of(root) == {"2.jpg": "y"}
    assert "1 of 2 images are left out, as what lies beside them may be another's caption, as 1.jpg" in caplog.text


def test_text_and_json_beside_images(make, tmp_path):
    root = make({
        "a.jpg": b"1", "a.txt": "text first", "a.json": {"caption": "second"},
        "b.jpg": b"2", "b.json": {"caption": ["one", "two"], "text": "another"},
        "c.jpg": b"3", "c.json": {"other": 1},
        "d.jpg": b"4", "d.txt": b"\xff\xfe",
        "e.jpg": b"5", "e.txt": "goes",
        "captions_1.jpg": b"6", "captions_1.json": {"caption": "of a picture that is called so"},
    })  # fmt: skip
    source = open_source(root, PAIRS)
    assert [source.name(n) for n in range(6)] == ["a.jpg", "b.jpg", "c.jpg", "captions_1.jpg", "d.jpg", "e.jpg"]
    assert [source.read(n).caption for n in (0, 1, 3)] == [
        "text first", ("one", "two"), "of a picture that is called so"
    ]  # fmt: skip
    assert open_source(root, SourceSettings(captions=True, caption_column="text")).read(1).caption == "another"
    (tmp_path / "data" / "e.txt").unlink()
    for index, reason in (
        (2, "no text under 'caption'"),
        (4, "not UTF-8"),
        (5, "beside it cannot be read: No such fi"),
    ):
        with pytest.raises(BadSample, match=reason):
            source.read(index)


def test_metadata_of_imagefolder(make, caplog):
    """Names are relative to the file's own folder; lines without a text, or without an image, give nothing."""
    root = make({
        "train/metadata.jsonl": jsonl(
            {"file_name": "a.jpg", "text": "first"}, {"file_name": "deep/b.jpg", "text": "second"},
            {"file_name": "c.jpg", "label": 3}, {"file_name": "gone.jpg", "text": "x"},
        ),
        "train/a.jpg": b"1", "train/deep/b.jpg": b"2", "train/c.jpg": b"3",
        "test/metadata.csv": '\ufefffile_name,text\r\na.jpg,"two\nlines, quoted"\r\nshort.jpg\r\n', "test/a.jpg": b"4",
    })  # fmt: skip
    assert captions_of(root) == {
        "test/a.jpg": "two\nlines, quoted", "train/a.jpg": "first", "train/deep/b.jpg": "second"
    }  # fmt: skip
    assert "metadata.jsonl: 1 of 3 captions have no image, as train/gone.jpg" in caplog.text
    assert "1 of 4 images have no caption and are left out, as train/c.jpg" in caplog.text


def test_caption_files_in_any_folder(make):
    root = make({
        "captions.jsonl": jsonl({"image": "sub/b.jpg", "caption": "from above"}), "x.jpg": b"0",
        "sub/captions.json": {"a.jpg": "in its folder", "../x.jpg": "one up"}, "sub/a.jpg": b"1", "sub/b.jpg": b"2",
        "above/captions.json": {"images/a.jpg": "in between"}, "above/images/a.jpg": b"3",
    })  # fmt: skip
    assert captions_of(root) == {
        "above/images/a.jpg": "in between", "sub/a.jpg": "in its folder", "sub/b.jpg": "from above", "x.jpg": "one up"
    }  # fmt: skip


def test_precedence(make, caplog):
    """captions.json, captions.jsonl, metadata, COCO, then what lies beside; of one kind the nearest."""
    files = {
        "captions.json": {"s/1.jpg": "json", "s/2.jpg": "json above"},
        "s/captions.json": {"2.jpg": "json"},
        "s/captions.jsonl": jsonl(*({"file_name": f"{n}.jpg", "caption": "jsonl"} for n in (1, 2, 3))),
        "s/metadata.jsonl": jsonl(*({"file_name": f"{n}.jpg", "text": "metadata"} for n in (3, 4))),
        "s/metadata.csv": "file_name,text\n4.jpg,csv\n5.jpg,csv\n",
        "s/captions_val.json": {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in (5, 6)],
                                "annotations": [{"image_id": n, "caption": "coco"} for n in (5, 6)]},
    } | {f"s/{n}.jpg": b"x" for n in range(1, 9)} | {f"s/{n}.txt": "beside" for n in range(1, 8)}  # fmt: skip
    files["s/7.json"] = {"caption": "last"}
    root = make(files)
    expected = ["json", "json", "jsonl", "metadata", "csv", "coco", "beside"]
    assert captions_of(root) == {f"s/{n}.jpg": text for n, text in enumerate(expected, 1)}
    for line in (
        f"{root}/captions.json: 1 of 2 captions are not used, as another file goes first, as s/2.jpg",
        "captions.jsonl: 2 of 3 captions are not used, as another file goes first, as s/1.jpg",
        "metadata.jsonl: 1 of 2 captions are not used, as another file goes first, as s/3.jpg",
        "metadata.csv: 1 of 2 captions are not used, as another file goes first, as s/4.jpg",
        "captions_val.json: 1 of 2 captions are not used, as another file goes first, as s/5.jpg",
        f"{root}: 6 of 8 captions beside images are not used, as a file names the image, as s/1.txt",
        "1 of 8 images have no caption and are left out, as s/8.jpg",
    ):
        assert line in caplog.text
    assert len(caplog.records) == 7


COCO = {
    "info": {"year": 2017, "version": "1.0"},
    "licenses": [{"id": 1}],
    "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 9, "file_name": "000009.jpg", "height": 3.5}],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "nine"},
        {"image_id": 7, "id": 2, "caption": "seven"},
        {"image_id": 9, "id": 3, "caption": "nine again"},
        {"image_id": 8, "id": 4, "caption": "of no image"},
        {"image_id": [], "caption": "damaged"},
        {"image_id": 7},
    ],
}


@pytest.mark.parametrize(
    "where", ["annotations/captions_val2017.json", "captions_val2017.json", "val2017/captions.json"]
)
@pytest.mark.parametrize("order", [list(COCO), list(reversed(COCO))])
def test_coco(make, where, order):
    """Its names have no folder, and its other files no captions."""
    root = make({
        where: {key: COCO[key] for key in order}, "annotations/instances_val2017.json": {"images": COCO["images"]},
        "val2017/000007.jpg": b"7", "val2017/000009.jpg": b"9",
    })  # fmt: skip
    assert captions_of(root) == {"val2017/000007.jpg": "seven", "val2017/000009.jpg": ("nine", "nine again")}


def test_coco_names_that_several_images_have(make, caplog):
    files = {"images": [{"id": "x", "file_name": "a.jpg"}, {"id": "y", "file_name": "val/b.jpg"}],
             "annotations": [{"image_id": "x", "caption": "of a"}, {"image_id": "y", "caption": "of b"}]}  # fmt: skip
    root = make({"captions_all.json": files} | dict.fromkeys(["t/a.jpg", "v/a.jpg", "t/b.jpg", "old/val/c.jpg"], b"x"))
    with pytest.raises(ValueError, match="names none of the 4 images"):
        open_source(root, PAIRS)
    assert "1 of 2 captions are left out, as several images may be meant, as a.jpg" in caplog.text
    assert "1 of 2 captions have no image, as val/b.jpg" in caplog.text
    make({"old/val/b.jpg": b"y"})
    with pytest.raises(ValueError, match="names none"):  # b.jpg is there twice
        open_source(root, PAIRS)
    make({"captions_all.json": {**files, "images": [{"id": "y", "file_name": "val/c.jpg"}]}})
    assert captions_of(root) == {"old/val/c.jpg": "of b"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.json", {"a.jpg": ["one", "two", 3, None], "b.jpg": "only", "c.jpg": []}),
        ("captions.json", '{"a.jpg": "one", "a.jpg": "two", "b.jpg": "only"}'),
        ("captions.json", [{"image": "a.jpg", "caption": ["one", "two"]}, {"file_name": "b.jpg", "text": "only"}]),
        ("captions.jsonl", jsonl(*({"name": f"{c[0]}.jpg", "caption": c[2:]} for c in ("a one", "b only", "a two")))),
        ("metadata.jsonl", jsonl({"file_name": "b.jpg", "text": "only"}, {"path": "a.jpg", "text": ["one", "two"]})),
        ("metadata.csv", "image,caption\na.jpg,one\nb.jpg,only\na.jpg,two\n"),
    ],
)  # fmt: skip
def test_several_captions_of_an_image(make, name, content):
    root = make({name: content, "a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"})
    assert captions_of(root) == {"a.jpg": ("one", "two"), "b.jpg": "only"}
    assert read_captions(f"{root}/{name}") == {"a.jpg": "one", "b.jpg": "only"}


def forms(name):
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != decomposed
    return composed, decomposed


@pytest.mark.parametrize("swap", [False, True])
def test_names_in_another_unicode_form(make, swap):
    """macOS writes accents as characters of their own; an exact name goes before."""
    one, other = forms("é.jpg")[::-1] if swap else forms("é.jpg")
    root = make({"captions.json": {one: "x", "b.jpg": "y"}, other: b"1", "b.jpg": b"2"})
    assert captions_of(root) == {other: "x", "b.jpg": "y"}
    make({one: b"3"})
    assert captions_of(root) == {one: "x", "b.jpg": "y"}


def test_a_unicode_form_that_two_images_have(make, caplog):
    one, other, third = "\u00c5", "A\u030a", "\u212b"  # the letter, of two characters, and the sign of ångström
    images = dict.fromkeys([f"{one}.jpg", f"{other}.jpg", "b.jpg"], b"x")
    root = make({"captions.json": {f"{third}.jpg": "x", "b.jpg": "y"}} | images)
    assert captions_of(root) == {"b.jpg": "y"}
    assert f"1 of 2 captions are left out, as several images may be meant, as {third}.jpg" in caplog.text
    make({"captions.json": {"b.jpg": "y"}, f"{third}.txt": "x"})
    assert captions_of(root) == {"b.jpg": "y"}
    assert "2 of 3 images are left out, as what lies beside them may be another's caption" in caplog.text


def test_text_files_in_another_unicode_form(make, caplog):
    composed, decomposed = forms("é")
    root = make(
        {f"{composed}.jpg": b"1", f"{decomposed}.txt": "x", f"{decomposed}2.jpg": b"2", f"{composed}2.txt": "y"}
    )
    assert captions_of(root) == {f"{composed}.jpg": "x", f"{decomposed}2.jpg": "y"}
    make({f"{decomposed}.jpg": b"3"})
    assert captions_of(root) == {f"{decomposed}.jpg": "x", f"{decomposed}2.jpg": "y"}


def img2dataset(root, kind):
    """What img2dataset writes of four images, one of them without success."""
    keys = ["000000000", "000000001", "000000003"]
    facts = [{"caption": f"of {key}", "url": "u", "key": key, "status": "success", "width": 40} for key in keys]
    (root / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": 3, "status_dict": {"success": 3}}))
    images = [encode(picture(number), "JPEG") for number in range(3)]
    members = [
        (f"{key}.{ending}", data)
        for key, fact, image in zip(keys, facts, images, strict=True)
        for ending, data in (("jpg", image), ("json", json.dumps(fact).encode()), ("txt", fact["caption"].encode()))
    ]
    table = pa.Table.from_pylist(facts)
    if kind == "parquet":
        table = table.append_column("jpg", pa.array(images))
    if kind == "webdataset":
        write_tar(root / "00000.tar", members)
    if kind == "files":
        (root / "00000").mkdir()
        for name, data in members:
            (root / "00000" / name).write_bytes(data)
    pq.write_table(table, root / "00000.parquet")
    return keys, images


@pytest.mark.parametrize("kind", ["files", "webdataset", "parquet"])
def test_what_img2dataset_writes(tmp_path, kind, caplog):
    root = tmp_path / "laion"
    root.mkdir()
    keys, images = img2dataset(root, kind)
    settings = {"captions": True, "cache_dir": str(tmp_path / "cache")}
    if kind == "parquet":
        for use in (open_source, check_source):
            with pytest.raises(
                ValueError, match=r"no column 'image'; its columns are caption, .*, jpg: set image_column=jpg$"
            ):
                use(str(root), SourceSettings(**settings))
        settings["image_column"] = "jpg"
    check_source(str(root), SourceSettings(**settings))
    source = open_source(str(root), SourceSettings(**settings))
    names = {"files": "00000/{}.jpg", "webdataset": "00000.tar/{}.jpg"}.get(kind)
    expected = [names.format(key) if names else f"00000.parquet:{n}" for n, key in enumerate(keys)]
    assert [source.name(n) for n in range(len(source))] == expected
    assert [tuple(source.read(n)) for n in range(3)] == [(images[n], f"of {key}") for n, key in enumerate(keys)]
    assert len(open_source(str(root), SourceSettings(**{**settings, "captions": False}))) == 3
    lines = {record.getMessage().partition(": ")[2] for record in caplog.records}
    assert lines == {
        "files": {"reading the images; 1 .parquet files are left out (data_format chooses)"},
        "webdataset": {"reading the .tar shards; 1 .parquet files are left out (data_format chooses)"},
    }.get(kind, set())


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("captions.json", '{"a.jpg": "x"', r"captions\.json is not valid JSON: parse error: premature EOF$"),
        ("captions.json", '{"a.jpg": NaN}', "is not valid JSON: "),
        ("captions.json", b'{"a.jpg": "\xff"}', r"captions\.json is not UTF-8: save it as UTF-8"),
        ("captions.json", b"", "is not valid JSON: "),
        ("captions.json", '"text"', "holds a string: wanted"),
        ("sub/metadata.jsonl", '{"file_name": "a.jpg"}\n[', r"sub/metadata\.jsonl, line 2 is not valid JSON"),
        ("metadata.csv", b"file_name,text\na.jpg,\xff\n", r"metadata\.csv is not UTF-8"),
        ("metadata.csv", f'file_name,text\na.jpg,"{"x" * 200_000}"\n', r"metadata\.csv is not valid CSV: field larger"),
        ("metadata.csv", "name,label\na.jpg,3\n", r"metadata\.csv names none of the 2 images of .*: it has 'nothing'"),
    ],
)
def test_damaged_files_of_captions(make, name, content, match):
    root = make({name: content, "a.jpg": b"1", "sub/b.jpg": b"2"})
    with pytest.raises(ValueError, match=match) as error:
        open_source(root, PAIRS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_text(make, mark):
    for name, content in (
        ("x.json", b'{"a": "1"}'),
        ("x.jsonl", b'{"name": "a", "text": "1"}'),
        ("x.csv", b"name,text\na,1"),
    ):
        root = make({name: mark + content})
        assert list(caption_entries(f"{root}/{name}")) == [("a", "1")]


def test_no_captions_of_any_kind(make):
    root = make({"a.jpg": b"1", "sub/b.jpg": b"2", "notes.txt": "x", "metadata.json": {}, "sub/.b.txt": "hidden"})
    for use in (open_source, check_source):
        with pytest.raises(
            ValueError, match=r"has no captions: put captions\.json .* or a \.txt for each image beside"
        ):
            use(root, PAIRS)


def test_stage_1_reads_all_images_and_says_nothing_of_captions(make, caplog):
    caplog.set_level(logging.INFO)
    root = make({"a.jpg": b"1", "b.jpg": b"2", "a.txt": "x", "captions.json": "{"})
    assert captions_of(root, SourceSettings()) == {"a.jpg": None, "b.jpg": None}
    assert not caplog.records


def test_a_file_is_never_whole_in_memory(make):
    """Arrow's own memory, which holds the texts once, does not count here."""
    count = 40_000
    content = json.dumps({f"{n}.jpg": f"{n} " * 100 for n in range(count)})
    root = make({"captions.json": content, "0.jpg": b"1"})
    tracemalloc.start()
    try:
        source = open_source(root, PAIRS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source) == 1
    assert peak < len(content) / 2


def test_captions_written_by_csv(make, tmp_path):
    """Against Python's own writer."""
    texts = ["plain", 'with "quotes", and commas', "two\r\nlines", "é 😀"]
    root = make({f"{n}.jpg": b"x" for n in range(4)})
    with open(f"{root}/metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "text"), *((f"{n}.jpg", text) for n, text in enumerate(texts))])
    assert list(captions_of(root).values()) == texts


MEMORY = """
import re, sys
from vlv.data.files import pack_names
from vlv.data.folder import open_files
from vlv.data.formats import DataFiles, SourceSettings
import vlv.data.folder_captions
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
count = int(sys.argv[2])
names = pack_names([f"{n:09d}.jpg" for n in range(count)])
before = peak()
source = open_files(DataFiles(sys.argv[1], sys.argv[1], names), SourceSettings(captions=True))
assert len(source) == count
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_of_long_captions(make):
    """The peak of a process, in bytes for each of 300,000 captions of 1,000 bytes."""
    count = 300_000
    root = make({"captions.json": json.dumps({f"{n:09d}.jpg": f"{n:09d} " + "word " * 198 for n in range(count)})})
    done = subprocess.run([sys.executable, "-c", MEMORY, root, str(count)], capture_output=True, text=True, check=True)
    each = int(done.stdout) / count
    print(f"{each:.0f} bytes a caption")
    assert each < 1500


def test_an_image_without_a_caption_stops_where_nothing_may_be_left_out(make):
    path = make({"a.png": encode(picture(0)), "b.png": encode(picture(1)), "captions.json": {"a.png": "one"}})
    assert len(open_source(path, PAIRS)) == 1
    with pytest.raises(ValueError, match=r"1 of 2 images have no caption and are left out, as b\.png; max_bad_share=0"):
        open_source(path, SourceSettings(captions=True, max_bad_share=0))
