"""Column types that tables have: how images and captions are held, as pyarrow writes them."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value

from vlv.data.formats import SourceSettings
from vlv.data.linked_files import linked_files
from vlv.data.sample import BadSample
from vlv.data.sources import check_source, open_source

from .pictures import encode, picture

FILES = [encode(picture(number)) for number in range(3)]
TEXTS = ["one", "zwei é", "three 😀"]
PATHS = ["0.png", "images/1.png", "images/../images/2.png"]
LISTS = [["one", "eins"], ["zwei"], [None, "three", "drei"]]
SEVERAL = [("one", "eins"), "zwei", ("three", "drei")]
PAIRS = SourceSettings(captions=True)


def numbers(kind):
    return pa.array([list(data) for data in FILES], kind)


def structs(contents, paths, kind=None, path_kind=None):
    rows = [{"bytes": data, "path": path} for data, path in zip(contents, paths, strict=True)]
    return pa.array(rows, pa.struct([("bytes", kind or pa.binary()), ("path", path_kind or pa.string())]))


IMAGES = {
    "binary": pa.array(FILES),
    "large binary": pa.array(FILES, pa.large_binary()),
    "binary view": pa.array(FILES, pa.binary_view()),
    "dictionary": pa.array(FILES).dictionary_encode(),
    "list": numbers(pa.list_(pa.uint8())),
    "large list": numbers(pa.large_list(pa.uint8())),
    "paths": pa.array(PATHS),
    "large paths": pa.array(PATHS, pa.large_string()),
    "views of paths": pa.array(PATHS, pa.string_view()),
    "dictionary of paths": pa.array(PATHS).dictionary_encode(),
    "struct": structs(FILES, ["nowhere.png"] * 3),
    "struct of lists": structs([list(data) for data in FILES], PATHS, pa.list_(pa.uint8())),
    "struct with paths alone": structs([None] * 3, PATHS, path_kind=pa.large_string()),
    "struct with either": structs([FILES[0], None, None], ["gone.png", *PATHS[1:]]),
    "struct of paths": pa.array([{"path": path} for path in PATHS], pa.struct([("path", pa.string())])),
}
CAPTIONS = {
    "string": (pa.array(TEXTS), TEXTS),
    "large string": (pa.array(TEXTS, pa.large_string()), TEXTS),
    "string view": (pa.array(TEXTS, pa.string_view()), TEXTS),
    "dictionary": (pa.array(TEXTS).dictionary_encode(), TEXTS),
    "binary": (pa.array([text.encode() for text in TEXTS]), TEXTS),
    "dictionary of binary": (pa.array([text.encode() for text in TEXTS]).dictionary_encode(), TEXTS),
    "list": (pa.array(LISTS), SEVERAL),
    "large list": (pa.array(LISTS, pa.large_list(pa.large_string())), SEVERAL),
    "list of binary": (
        pa.array([[text and text.encode() for text in texts] for texts in LISTS], pa.list_(pa.binary())), SEVERAL
    ),
    "list of dictionary": (
        pa.ListArray.from_arrays([0, 2, 3, 6], pa.array([*LISTS[0], *LISTS[1], *LISTS[2]]).dictionary_encode()),
        SEVERAL,
    ),
    "fixed list": (pa.array([[text, text] for text in TEXTS], pa.list_(pa.string(), 2)), [(t, t) for t in TEXTS]),
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Write a table, as parquet or as an Arrow file, and the images that its paths name."""
    root = tmp_path / "data"
    for path, data in zip(PATHS, FILES, strict=True):
        (root / "sub" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "sub" / path).write_bytes(data)

    def write(columns, ending="parquet"):
        table = pa.table(columns)
        path = root / "sub" / f"x.{ending}"
        if ending == "parquet":
            pq.write_table(table, path, row_group_size=2)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        return str(path)

    return write


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", IMAGES)
def test_images(write, kind, ending):
    path = write({"image": IMAGES[kind]}, ending)
    check_source(path)
    source = open_source(path)
    assert [source.read(n).image for n in range(len(source))] == FILES


def test_a_fixed_list_of_bytes(write):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    column = pa.array([image.ravel().tolist() for image in pixels], pa.list_(pa.uint8(), 60))
    source = open_source(write({"image": column}), SourceSettings(raw_image_shape=(3, 4, 5)))
    assert np.array_equal([source.read(n).image for n in range(2)], pixels)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions(write, kind, ending):
    column, expected = CAPTIONS[kind]
    path = write({"image": FILES, "caption": column}, ending)
    check_source(path, PAIRS)
    source = open_source(path, PAIRS)
    assert [source.read(n).caption for n in range(len(source))] == expected


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (structs([None], [None]), "the image bytes are missing"),
        (pa.array([None], pa.struct([("bytes", pa.binary())])), "the image bytes are missing"),
        (pa.array([None], pa.string()), "the image is missing"),
        (pa.array([None], pa.list_(pa.uint8())), "the image is missing"),
        (pa.array([[1, None]], pa.list_(pa.uint8())), "the image's list of bytes has gaps"),
        (pa.array([None], pa.dictionary(pa.int8(), pa.binary())), "the image is missing"),
        (pa.array(["gone.png"]), "the image file 'gone.png' cannot be read: No such file"),
        (pa.array(["images"]), "the image file 'images' cannot be read: Is a directory"),
        (pa.array(["https://host/a.png?key=1"]), "the row has a URL and no image"),
        (pa.array(["a.png\0"]), "is none"),
        (pa.array(["/etc/passwd"]), "'/etc/passwd' leads out of the dataset's folder"),
        (structs([None], ["../../secret.png"]), r"'../../secret.png' leads out of the dataset's folder"),
        (pa.array(["images/../../../secret.png"]), "leads out of the dataset's folder"),
    ],
)
def test_rows_without_an_image_are_bad_samples(write, tmp_path, column, reason):
    (tmp_path / "secret.png").write_bytes(FILES[0])
    write({"image": column})
    with pytest.raises(BadSample, match=reason):
        open_source(str(tmp_path / "data"), SourceSettings(data_format="parquet")).read(0)


def test_paths_lead_anywhere_in_the_dataset(write, tmp_path):
    """Which is the folder that the user gave, or that of a single file."""
    (tmp_path / "data" / "up.png").write_bytes(FILES[2])
    file = write({"image": ["../up.png", str(tmp_path / "data" / "sub" / "0.png")]})
    source = open_source(str(tmp_path / "data"), SourceSettings(data_format="parquet"))
    assert [source.read(n).image for n in range(2)] == [FILES[2], FILES[0]]
    with pytest.raises(BadSample, match=r"'\.\./up\.png' leads out"):
        open_source(file).read(0)


def test_a_relative_root(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "data")
    assert linked_files("sub", [""])("0.png") == FILES[0]
    assert linked_files("sub", ["sub"])("images/../0.png") == FILES[0]
    with pytest.raises(BadSample, match="leads out"):
        linked_files("sub", ["sub"])("../up.png")
    with pytest.raises(BadSample, match="leads out"):  # its name begins like the root's
        linked_files("sub", ["sub"])("../sub-other/a.png")
    os.mkdir("second")
    (tmp_path / "data" / "second" / "a.png").write_bytes(b"a")
    assert linked_files("sub", ["sub", "second"])("../second/a.png") == b"a"


def test_a_saved_dataset_with_paths(write, tmp_path):
    """Only files of the saved folder are read."""
    features = Features({"image": {"bytes": Value("binary"), "path": Value("string")}})
    rows = [{"bytes": None, "path": path} for path in ("in.png", str(tmp_path / "data" / "sub" / "0.png"))]
    Dataset.from_dict({"image": rows}, features=features).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "in.png").write_bytes(FILES[1])
    source = open_source(str(tmp_path / "saved"))
    assert source.read(0).image == FILES[1]
    with pytest.raises(BadSample, match="leads out of the dataset's folder"):
        source.read(1)


def test_captions_of_a_saved_dataset(tmp_path):
    features = Features({"image": Value("binary"), "caption": [Value("string")]})
    Dataset.from_dict({"image": FILES, "caption": LISTS}, features=features).save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"), PAIRS)
    assert [source.read(n).caption for n in range(3)] == SEVERAL


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([[]], pa.list_(pa.string())), "the caption is missing"),
        (pa.array([[None]], pa.list_(pa.string())), "the caption is missing"),
        (pa.array([None], pa.dictionary(pa.int8(), pa.string())), "the caption is missing"),
        (pa.array([b"\xff\xfe"]), "the caption is not UTF-8"),
        (pa.array([[b"fine", b"\xff"]]), "the caption is not UTF-8"),
    ],
)
def test_rows_without_a_caption_are_bad_samples(write, column, reason):
    source = open_source(write({"image": FILES[:1], "caption": column}), PAIRS)
    with pytest.raises(BadSample, match=reason):
        source.read(0)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"image": [1.5], "caption": ["x"]}, "column 'image' is double, wanted binary or list<uint8> .*, string"),
        ({"image": [[1]], "caption": ["x"]}, r"column 'image' is list<element: int64>, wanted binary"),
        ({"image": structs([1], ["a"], pa.int64()), "caption": ["x"]}, "column 'image' is struct<bytes: int64, path"),
        ({"image": [{"url": "a"}], "caption": ["x"]}, "'image' is struct<url: string>, wanted .* 'bytes' or 'path'"),
        ({"image": FILES[:1], "caption": [[1]]}, "column 'caption' is list<element: int64>, wanted string, binary"),
        ({"image": FILES[:1], "caption": [{"en": "x"}]}, "column 'caption' is struct<en: string>, wanted string"),
        ({"jpg": FILES[:1], "text": ["x"]}, "no column 'image' and no 'caption'; its columns are jpg, text: "
                                            "set image_column=jpg and caption_column=text$"),
        ({"jpg": FILES[:1], "png": FILES[:1], "caption": ["x"]}, "jpg, png, caption: set image_column to one of"),
        ({"image": FILES[:1], "title": ["x"]}, "no column 'caption'; .*: set caption_column to one of them"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_read_are_named(write, columns, match):
    for use in (open_source, check_source):
        with pytest.raises(ValueError, match=match):
            use(write(columns), PAIRS)


def test_a_dictionary_for_each_chunk_is_shared_all_the_same(write):
    """An Arrow file, through which workers share row groups, holds one dictionary for a column."""
    source = open_source(write({"image": IMAGES["dictionary of paths"], "caption": CAPTIONS["dictionary"][0]}),
                         SourceSettings(captions=True, readers=2))  # fmt: skip
    assert [source.read(n) for n in range(3)] == list(zip(FILES, TEXTS, strict=True))
