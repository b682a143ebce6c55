"""Images with several captions: all are read over the epochs, as a function of the position alone."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.mixture import build_order
from vlv.data.order import BatchPlan, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import caption_at
from vlv.data.sources import open_source
from vlv.data.streaming import HeldStream, StreamedDataset, StreamSettings

from .pictures import encode, picture, write_tar
from .test_captions import PAD

COUNT, CAPTIONS = 6, 3
PAIRS = SourceSettings(captions=True)


class Numbers:
    """The id of a caption that is a number."""

    pad_token_id = PAD

    def __call__(self, text, **_):
        return {"input_ids": [int(text)]}


@pytest.fixture
def prepare(processor):
    return SamplePreparation(processor, CaptionTokenizer(Numbers(), 1, False, 0))


@pytest.fixture
def photos(tmp_path):
    """Image n has the captions 10 n, 10 n + 1, 10 n + 2."""
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(COUNT):
        (root / f"{number}.png").write_bytes(encode(picture(number)))
    texts = {f"{number}.png": [f"{10 * number + n}" for n in range(CAPTIONS)] for number in range(COUNT)}
    (root / "captions.json").write_text(json.dumps(texts))
    return root


def drawn(dataset, positions, num_workers=0):
    """{position: (name, caption)}."""
    return {
        position: (name, caption)
        for batch in build_loader(dataset, positions, num_workers, False)
        for position, name, (caption,) in zip(
            batch["positions"], batch["names"], batch["input_ids"].tolist(), strict=True
        )
    }


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_each_caption_is_read_once_in_as_many_epochs(photos, prepare, num_workers, processes):
    source = open_source(str(photos), PAIRS)
    order = build_order(source, 1, None)
    dataset = OrderedDataset(source, order, prepare)
    seen = {}
    for process in range(processes):
        plan = BatchPlan(6, processes, process, 3)
        seen |= drawn(dataset, training_positions(plan, 0, CAPTIONS), num_workers)
    assert Counter(caption for _, caption in seen.values()) == {10 * i + n: 1 for i in range(COUNT) for n in range(3)}
    assert all(int(name[0]) == caption // 10 for name, caption in seen.values())
    first_epoch = {caption % 10 for position, (_, caption) in seen.items() if position < COUNT}
    assert len(first_epoch) > 1  # a run of one epoch learns from more than first captions
    resumed = drawn(dataset, [[7, 8], [9]])
    assert resumed == {position: seen[position] for position in (7, 8, 9)}
    assert drawn(dataset, [[COUNT * CAPTIONS + n for n in range(COUNT)]]).keys() == set(range(18, 24))


def test_validation_takes_the_first(photos, prepare):
    source = open_source(str(photos), PAIRS)
    dataset = OrderedDataset(source, build_order(source, 0, 1, shuffle=False), prepare, 8, first_captions=True)
    seen = drawn(dataset, [list(range(10))])
    assert [seen[n] for n in range(COUNT)] == [(f"{n}.png", 10 * n) for n in range(COUNT)]
    assert seen[7][1] == 10
    assert seen[8] == ("", PAD)


def test_a_mixture_counts_the_epochs_of_each_source(photos, prepare, tmp_path):
    """The small source is read four times as often as the other."""
    few = tmp_path / "few"
    few.mkdir()
    for number in range(2):
        (few / f"{number}.png").write_bytes(encode(picture(number)))
    (few / "captions.json").write_text(json.dumps({f"{n}.png": [str(n), str(10 + n), str(20 + n)] for n in range(2)}))
    (tmp_path / "m.yaml").write_text(
        json.dumps({"sources": [{"path": str(photos), "weight": 3}, {"path": str(few), "weight": 4}]})
    )
    source = open_source(str(tmp_path / "m.yaml"), PAIRS)
    dataset = OrderedDataset(source, build_order(source, 0, None), prepare)
    seen = drawn(dataset, [list(range(140))])
    places = {name: [seen[n][1] for n in sorted(seen) if seen[n][0] == name] for name, _ in seen.values()}
    assert len(places) == 8
    for captions in places.values():  # each image's captions take turns, epoch by epoch of its own source
        assert len(captions) >= 9
        assert all(len(set(captions[n : n + 3])) == 3 for n in range(len(captions) - 2))


def test_streams(prepare, tmp_path):
    """Epoch by epoch too; held samples, for validation, have all their captions."""
    members = [
        (f"{n}.{ending}", data)
        for n in range(4)
        for ending, data in (
            ("png", encode(picture(n))),
            ("json", json.dumps({"caption": [f"{10 * n}", f"{10 * n + 1}"]}).encode()),
        )
    ]
    write_tar(tmp_path / "x.tar", members)
    settings = StreamSettings(0, PAIRS, window=4)
    path = f"pipe:cat {tmp_path}/x.tar"
    batches = StreamedDataset(path, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], prepare, settings)
    epochs = [dict(zip(batch["names"], batch["input_ids"][:, 0].tolist(), strict=True)) for batch in batches]
    for number in range(4):
        captions = [epoch[f"x.tar/{number}.png"] for epoch in epochs]
        assert sorted(captions[:2]) == [10 * number, 10 * number + 1]
        assert captions[2] == captions[0]
    resumed = StreamedDataset(path, [[4, 5, 6, 7]], prepare, settings)
    assert [batch["input_ids"].tolist() for batch in resumed] == [[[epochs[1][name]] for name in epochs[1]]]
    held = HeldStream(path, 2, settings)
    assert held.read(1).caption == ("10", "11")


def test_tars_and_parquet_have_several_too(prepare, tmp_path):
    table = {"image": [encode(picture(n)) for n in range(2)], "caption": [["1", "2"], ["3"]]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"), PAIRS)
    seen = drawn(OrderedDataset(source, build_order(source, 0, 1), prepare), [[0, 1], [2, 3]])
    assert Counter(caption for _, caption in seen.values()) == {1: 1, 2: 1, 3: 2}
    write_tar(tmp_path / "t" / "x.tar", [("a.jpg", b"1"), ("a.json", b'["one", "two"]')])
    settings = SourceSettings(captions=True, cache_dir=str(tmp_path / "cache"))
    assert open_source(str(tmp_path / "t"), settings).read(0).caption == ("one", "two")


def test_the_choice_is_the_same_forever():
    """Runs resume by position: a change of these texts breaks every run that is under way."""
    names = ["a.jpg", "b.jpg", "c.jpg", "0001.tar/é.png", "\\xff.png"]
    captions = ("0", "1", "2", "3", "4")
    assert [caption_at(captions, name, 0) for name in names] == ["2", "1", "2", "3", "2"]
    assert [caption_at(captions, "a.jpg", epoch) for epoch in range(6)] == ["2", "3", "4", "0", "1", "2"]
    assert caption_at(captions, "a.jpg", None) == "0"
    assert caption_at("only", "a.jpg", 7) == "only"


def test_names_begin_evenly():
    starts = Counter(caption_at(("0", "1", "2", "3", "4"), f"{n:09d}.jpg", 0) for n in range(5000))
    assert all(abs(count - 1000) < 100 for count in starts.values())
