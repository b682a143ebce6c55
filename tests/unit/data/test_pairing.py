"""Which caption is whose: by the exact stem first, by webdataset's key where that is clear, and by no guess."""

import pytest

from vlv.data.formats import SourceSettings
from vlv.data.pairing import CAPTION_JSON, CAPTION_NONE, CAPTION_SEVERAL, CAPTION_TEXT, pair_names
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import BadSample
from vlv.data.sources import open_source
from vlv.data.streaming import StreamedDataset, StreamSettings
from vlv.losses import IGNORED

from .pictures import encode, picture, write_tar
from .test_captions import EOS, Words

TXT, JSON, NONE, SEVERAL = CAPTION_TEXT, CAPTION_JSON, CAPTION_NONE, CAPTION_SEVERAL
CASES = {
    "one of each": ("1.jpg 1.txt", [("1.jpg", "1.txt", TXT)], ""),
    "text before json": ("1.json 1.JPG 1.txt", [("1.JPG", "1.txt", TXT)], ""),
    "dots in the key": (
        "photo_2.5mm.jpg photo_2.5mm.txt DSC.001.jpg DSC.001.json DSC.002.jpg DSC.002.txt",
        [
            ("photo_2.5mm.jpg", "photo_2.5mm.txt", TXT),
            ("DSC.001.jpg", "DSC.001.json", JSON),
            ("DSC.002.jpg", "DSC.002.txt", TXT),
        ],
        "",
    ),
    "a mask first": ("1.mask.png 1.jpg 1.txt", [("1.jpg", "1.txt", TXT)], "1.mask.png"),
    "webdataset's key of one image": ("1.left.jpg 1.txt", [("1.left.jpg", "1.txt", TXT)], ""),
    "a key that two images share": (
        "1.left.jpg 1.right.jpg 1.txt",
        [("1.left.jpg", None, NONE), ("1.right.jpg", None, NONE)],
        "",
    ),
    "two images of one stem": ("1.jpg 1.png 1.txt 2.jpg", [("2.jpg", None, NONE)], "1.jpg 1.png"),
    "a name twice": ("1.jpg 1.txt 2.jpg 1.jpg 1.txt", [("2.jpg", None, NONE)], "1.jpg 1.jpg"),
    "a caption twice": ("1.jpg 1.txt 1.txt", [("1.jpg", "1.txt", SEVERAL)], ""),
    "two folders": ("a/1.jpg b.c/1.txt b.c/1.jpg", [("a/1.jpg", None, 0), ("b.c/1.jpg", "b.c/1.txt", 1)], ""),
    "a part with a caption": ("1.jpg 1.txt 1.b.jpg 1.b.txt", [("1.jpg", "1.txt", 1), ("1.b.jpg", "1.b.txt", 1)], ""),
    "metadata beside": ("1.jpg 1.meta.json 1.cls", [("1.jpg", None, NONE)], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_pairs(case):
    given, expected, left_out = CASES[case]
    names = [name.encode() for name in given.split()]
    found = pair_names(names)
    read = [(names[p.image].decode(), p.caption if p.caption is None else names[p.caption].decode(), p.kind)
            for p in found.pairs]  # fmt: skip
    assert read == expected
    assert [names[place].decode() for place in found.left_out] == left_out.split()


@pytest.mark.parametrize(("given", "lone"), [("1.jpg 2.txt", 1), ("1.l.jpg 1.r.jpg 1.txt", 1), ("1.jpg 1.m.json", 0)])
def test_lone_captions(given, lone):
    assert pair_names([name.encode() for name in given.split()]).lone_captions == lone


PNG = [encode(picture(number)) for number in range(4)]
MEMBERS = [
    ("1.mask.png", PNG[0]), ("1.png", PNG[1]), ("1.txt", b"one"),
    ("a_2.5mm.png", PNG[2]), ("a_2.5mm.txt", b"one two"), ("a_2.6mm.png", PNG[3]), ("a_2.6mm.txt", b"one two three"),
]  # fmt: skip


def test_shards_joined_by_tar_are_not_mispaired(tmp_path, caplog):
    """Two shards that number from 0, joined by `tar -A`: the first image had the last caption."""
    joined = [("0.png", PNG[0]), ("0.txt", b"first"), ("0.png", PNG[1]), ("0.txt", b"last"), ("1.png", PNG[2])]
    write_tar(tmp_path / "x.tar", joined)
    source = open_source(str(tmp_path), SourceSettings(captions=True, cache_dir=str(tmp_path / "cache")))
    assert [source.name(index) for index in range(len(source))] == ["x.tar/1.png"]
    assert "2 images are left out, as another image has their key: x.tar/0.png, x.tar/0.png" in caplog.text


def test_two_captions_are_a_bad_sample_and_no_bad_image(tmp_path):
    write_tar(tmp_path / "x.tar", [("0.png", PNG[0]), ("0.txt", b"first"), ("0.txt", b"last")])
    settings = SourceSettings(captions=True, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(BadSample, match="several captions have the image's key"):
        open_source(str(tmp_path), settings).read(0)
    assert open_source(str(tmp_path), SourceSettings(cache_dir=settings.cache_dir)).read(0).image == PNG[0]


def test_an_index_and_a_stream_pair_alike(tmp_path, processor, caplog):
    from vlv.data.captions import CaptionTokenizer

    write_tar(tmp_path / "x.tar", MEMBERS)
    source = open_source(str(tmp_path), SourceSettings(captions=True, cache_dir=str(tmp_path / "cache")))
    indexed = {source.name(index): source.read(index).caption for index in range(len(source))}
    assert indexed == {"x.tar/1.png": "one", "x.tar/a_2.5mm.png": "one two", "x.tar/a_2.6mm.png": "one two three"}
    prepare = SamplePreparation(processor, CaptionTokenizer(Words(), 9, False, EOS))
    stream = StreamedDataset(
        f"pipe:cat {tmp_path}/x.tar", [[0, 1, 2]], prepare, StreamSettings(0, SourceSettings(captions=True))
    )
    (batch,) = stream
    lengths = dict(zip(batch["names"], (batch["labels"] != IGNORED).sum(1).tolist(), strict=True))
    assert lengths == {name: len(caption.split()) for name, caption in indexed.items()}
    assert "left out, as another image has the key: 1.mask.png" in caplog.text
