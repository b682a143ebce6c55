"""A dataset's description against what was put into it, counted by hand."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset

from tests.unit.data.pictures import encode, picture, write_tar
from tests.unit.data.server import serve
from vlv.config import InspectDataConfig
from vlv.data import sources
from vlv.data.sources import open_source
from vlv.datatools.distribution import of_aspects, of_counts, of_sides
from vlv.datatools.opening import open_dataset
from vlv.datatools.probe import Prober, evenly, probe_indices

SMALL = ["decoder_resolution=16", "encoder_resolution=32"]


@pytest.fixture
def messy(photos):
    """Of 15 images one is empty, one is no image, one has a blank caption, two have equal bytes, one lacks its end."""
    captions = json.loads((photos / "captions.json").read_text())
    (photos / "g.jpg").write_bytes(b"")
    (photos / "h.jpg").write_bytes(b"<html>not found</html>")
    (photos / "i.jpg").write_bytes(encode(picture(11, (64, 64)), "JPEG")[:-2])
    (photos / "j.png").write_bytes((photos / "00.png").read_bytes())
    for name in ("g.jpg", "h.jpg", "i.jpg", "j.png"):
        captions[name] = "<script>alert(1)</script> & more"
    captions["02.png"] = "\n"
    (photos / "captions.json").write_text(json.dumps(captions))
    (photos / "k.heic").write_bytes(b"x")
    return photos


def test_the_facts_are_those_of_the_data(call, messy, tmp_path):
    place = tmp_path / "facts.json"
    code, out, _ = call("inspect", messy, f"json={place}", *SMALL)
    assert code == 0
    found = json.loads(place.read_text())
    images = [path for path in messy.rglob("*.*") if path.suffix not in (".json", ".heic")]
    assert (found["kind"], found["num_files"], found["num_samples"]) == ("folder", 15, 15)
    assert found["num_bytes"] == sum(path.stat().st_size for path in images)
    assert (found["probed"], found["good"], found["truncated"], found["repeated"]) == (15, 12, 1, 1)
    assert found["formats"] == {"PNG": 7, "JPEG": 3, "WEBP": 1, "TIFF": 1}
    assert found["modes"] == {"RGB": 11, "RGBA": 1}
    assert (found["turned"], found["transparent"], found["profiles"]) == (1, 1, 0)
    assert {(kind["reason"].split(" (")[0], kind["count"]) for kind in found["bad"]} == {
        ("the caption is empty", 1),
        ("the file is empty", 1),
        ("not an image of a known format", 1),
    }
    # 40 x 30 nine times but for the bad one, 48 x 64 upright, 90 x 30, 20 x 70, 64 x 64.
    sides = found["sides"]
    assert (sides["least"], sides["median"], sides["largest"], sides["count"]) == (20, 30, 64, 12)
    assert found["aspects"]["least"] == pytest.approx(20 / 70)
    assert found["aspects"]["largest"] == 3
    assert found["enlarged"] == 0
    words = found["lengths"]["words"]
    assert (words["count"], words["least"], words["largest"]) == (12, 3, 5)
    assert found["notes"][0].endswith("left out, as their kinds cannot be read: 1 .heic")
    speed = found["speed"]
    total = speed["read_ms"] + speed["decode_ms"] + speed["resize_ms"]
    assert speed["one_process"] == pytest.approx(1000 / total)
    assert speed["eight_workers"] == pytest.approx(8000 / total)
    lines = out.splitlines()
    assert lines[0] == str(messy)
    for line in (
        "  samples       15 with captions",
        "  probe         15 samples, 3 bad (20.0%)",
        "  bad           1 x the file is empty, as g.jpg",
    ):
        assert line in lines


class Page(HTMLParser):
    """Tags and text of a page, as a browser would have them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_shows_samples_with_escaped_captions_and_needs_no_other_file(call, messy, tmp_path):
    place = tmp_path / "new" / "page.html"
    assert call("inspect", messy, f"html={place}", *SMALL)[0] == 0
    page = Page(place.read_text())
    assert page.tags.count("img") == 12  # the good ones of 15
    assert "script" not in page.tags
    assert "<script>alert(1)</script> & more" in page.text
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    for title in ("Short side in pixels", "Width / height", "Caption length in words", "Bad samples", "12 samples"):
        assert title in page.text


def test_tokens_are_those_of_the_tokenizer(call, photos, tiny_components, tmp_path):
    from transformers import AutoTokenizer

    place = tmp_path / "facts.json"
    folder = tiny_components / "qwen"
    options = [f"tokenizer={folder}", "max_caption_tokens=20", f"json={place}", *SMALL]
    code, out, _ = call("inspect", photos, *options)
    assert code == 0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    captions = json.loads((photos / "captions.json").read_text()).values()
    lengths = [len(tokenizer(caption, add_special_tokens=False)["input_ids"]) for caption in captions]
    found = json.loads(place.read_text())
    tokens = found["lengths"]["tokens"]
    assert (tokens["least"], tokens["largest"], tokens["count"]) == (min(lengths), max(lengths), 11)
    assert tokens["mean"] == pytest.approx(np.mean(lengths))
    assert found["above_limit"] == sum(length > 20 for length in lengths) / 11
    assert 0 < found["above_limit"] < 1
    assert "have more than 20 tokens" in out


def test_images_without_captions(call, photos, tmp_path):
    (photos / "captions.json").unlink()
    code, out, _ = call("inspect", photos, *SMALL)
    assert code == 0
    assert "11 images without captions" in out
    assert "Caption" not in out
    code, _, err = call("inspect", photos, "captions=on")
    assert code == 2
    assert "has no captions" in err


def test_shards_and_row_groups_are_counted(call, photos, tmp_path):
    call("shards", photos, tmp_path / "tar", "samples_per_shard=4", "num_workers=0")
    call("shards", photos, tmp_path / "parquet", "format=parquet", "row_group_size=5", "num_workers=0")
    out = call("inspect", tmp_path / "tar", *SMALL)[1]
    assert "  files         3 .tar shards, " in out
    assert "  shards        3 of 3 to 4 samples, median 4" in out
    out = call("inspect", tmp_path / "parquet", *SMALL)[1]
    assert "  row groups    3 of 1 to 5 samples, median 5" in out


def test_what_cannot_be_inspected(call, tmp_path):
    for path, message in (("pipe:cat x.tar", "can only be streamed"), (tmp_path / "absent", "does not exist")):
        code, _, err = call("inspect", path)
        assert code == 2
        assert message in err
    assert "needs a dataset" in call("inspect")[2]
    assert "probe=0" in call("inspect", tmp_path, "probe=0")[2]
    write_tar(tmp_path / "a" / "0.tar", [("1.jpg", encode(picture(), "JPEG"))])
    code, _, err = call("inspect", tmp_path / "a", f"html={tmp_path / 'a' / '0.tar' / 'x.html'}", *SMALL)
    assert code == 2


def test_the_probe_is_spread_over_the_source():
    sizes = np.full(1000, 100)
    spread = probe_indices(sizes, "webdataset", 101)
    assert spread == [round(place) for place in np.floor(np.linspace(0, 99_999, 101))]
    assert probe_indices(np.array([3, 0, 2]), "folder", 1000) == [0, 1, 2, 3, 4]
    groups = {index // 100 for index in probe_indices(sizes, "parquet", 1000)}
    assert len(groups) == 64  # each costs its whole decoding
    assert min(groups) == 0
    assert max(groups) == 999
    assert max(np.diff(sorted(groups))) == 16
    assert evenly(range(5), 1) == [0]


def test_a_bad_sample_leaves_its_place_on_the_page_to_the_next(photos):
    for name in ("00.png", "sub/f.tif"):
        (photos / name).write_bytes(b"")
    config = InspectDataConfig(source=str(photos), captions="off")
    opened = open_dataset(str(photos), config, "off")
    prober = Prober(opened.source, config.decode_settings(), lambda image: {}, None, False, pictures=True)
    probe = prober.look(list(range(11)), lambda done: None)
    assert [sample.name for sample in probe.shown] == [opened.source.name(index) for index in range(1, 10)]


def test_unexpected_errors_are_bad_samples_and_a_lack_of_memory_is_none(photos):
    config = InspectDataConfig(source=str(photos), captions="off")
    opened = open_dataset(str(photos), config, "off")

    def fail(error):
        def process(image):
            raise error

        return Prober(opened.source, config.decode_settings(), process, None, False, pictures=False)

    probe = fail(RuntimeError("what\nno reader foresaw")).look([0, 1], lambda done: None)
    assert [(kind.reason, kind.count) for kind in probe.bad_kinds()] == [("unexpected RuntimeError", 2)]
    assert probe.bad_kinds()[0].example == "00.png: what no reader foresaw"
    with pytest.raises(MemoryError):
        fail(MemoryError()).look([0], lambda done: None)


def test_histograms_count_every_number_once():
    sides = of_sides([127, 128, 255, 512, 9000])
    assert [(item.label, item.count) for item in sides.bins if item.count] == [
        ("0 to 127", 1),
        ("128 to 255", 2),
        ("512 to 767", 1),
        ("4096 and more", 1),
    ]
    assert (sides.least, sides.median, sides.largest, sides.p95) == (
        127,
        255,
        9000,
        np.percentile([127, 128, 255, 512, 9000], 95),
    )
    assert [item.label for item in of_aspects([1.0, 1.2]).bins] == ["1.00 to 1.25"]
    rng = np.random.default_rng(0)
    for high in (2, 30, 400, 5000):
        values = rng.integers(1, high, 200).tolist()
        spread = of_counts(values)
        assert sum(item.count for item in spread.bins) == 200
        assert len(spread.bins) <= 14
        for item in spread.bins:
            assert item.count == sum(item.low <= value < item.high for value in values)
    assert of_counts([]) is None
    assert [item.label for item in of_counts([3, 5]).bins] == ["3", "4", "5"]


def test_a_mixture_and_urls(call, photos, tmp_path):
    shards = tmp_path / "shards"
    write_tar(shards / "0.tar", [("a.png", encode(picture(1))), ("a.txt", b"a caption")])
    (tmp_path / "all.yaml").write_text(f"sources: [{{path: {photos}}}, {{path: {shards}}}]\n")
    code, out, err = call("inspect", tmp_path / "all.yaml", f"json={tmp_path / 'facts.json'}", *SMALL)
    assert code == 0, err
    found = json.loads((tmp_path / "facts.json").read_text())
    assert (found["kind"], found["num_samples"], found["captions"]) == ("mixture", 12, True)
    assert "mixture, each source once" in out
    with serve() as server:
        server.files["0.tar"] = (shards / "0.tar").read_bytes()
        code, out, err = call("inspect", f"{server.url}/0.tar", "remote_cache_gb=0", *SMALL)
    assert code == 0, err
    assert "files         1 .tar shard\n" in out


def test_a_dataset_of_the_hub(call, tmp_path, monkeypatch):
    """`datasets` fetches it; here it is a saved one."""
    rows = {"image": [encode(picture(number)) for number in range(3)], "caption": ["a", "b", "c"]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(sources, "open_hub", lambda _, settings: open_source(str(tmp_path / "saved"), settings))
    code, out, err = call("inspect", "hub:owner/name", *SMALL)
    assert code == 0, err
    assert "dataset of the hub" in out
    assert "3 with captions" in out
