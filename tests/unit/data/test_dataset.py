import json
import multiprocessing

import numpy as np
import pytest
import torch

from vlv.benchmarks.memory import memory_mib
from vlv.data.captions import CaptionTokenizer
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.order import BatchPlan, SampleOrder, training_positions, validation_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.sources import open_source
from vlv.models.image_processor import VLVImageProcessor

from .pictures import encode, picture
from .test_captions import EOS, PAD, Words


@pytest.fixture
def dataset(folder, processor):
    source = open_source(str(folder))
    return OrderedDataset(source, SampleOrder(source.shard_sizes, seed=0, window=8), SamplePreparation(processor))


def same(one, other):
    return all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def test_batch(dataset):
    batch = next(iter(build_loader(dataset, [[3, 4, 7]], num_workers=0, pin_memory=False)))
    assert batch["decoder_pixels"].shape == (3, 3, 16, 16)
    assert batch["encoder_pixels"].shape == (3, 3, 32, 32)
    assert batch["decoder_pixels"].dtype == batch["encoder_pixels"].dtype == torch.uint8
    assert batch["weights"].tolist() == [1, 1, 1]
    assert batch["positions"] == [3, 4, 7]
    assert batch["errors"] == [None] * 3
    assert all(name.startswith(("a", "b", "e", "sub")) for name in batch["names"])
    assert "labels" not in batch


def test_pixels_are_the_processors(dataset, folder, processor):
    from PIL import Image

    place = dataset[0]
    expected = processor(Image.open(folder / place["name"]))
    assert torch.equal(place["decoder_pixels"], expected["decoder_pixels"])
    assert torch.equal(place["encoder_pixels"], expected["encoder_pixels"])


def test_workers_change_nothing(dataset):
    plan = BatchPlan(4, 1, 0, 2)
    alone = list(build_loader(dataset, training_positions(plan, 0, 5), 0, False))
    shared = list(build_loader(dataset, training_positions(plan, 0, 5), 2, False))
    assert len(alone) == len(shared) == 10
    assert all(same(one, other) for one, other in zip(alone, shared, strict=True))


def test_resuming_continues_with_the_same_batches(dataset):
    plan = BatchPlan(4, 1, 0, 2)
    whole = list(build_loader(dataset, training_positions(plan, 0, 5), 0, False))
    rest = list(build_loader(dataset, training_positions(plan, 8, 3), 0, False))
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))


def test_processes_read_the_same_samples_together(dataset):
    def names(processes):
        plans = [BatchPlan(4, processes, index, 1) for index in range(processes)]
        loaders = [build_loader(dataset, training_positions(plan, 4, 1), 0, False) for plan in plans]
        return sorted(name for loader in loaders for batch in loader for name in batch["names"])

    assert names(1) == names(2) == names(4)


def test_bad_samples_keep_their_place(folder, processor):
    for name, raw in (("bad1.jpg", b""), ("bad2.png", b"text"), ("bad3.png", encode(picture(size=(99, 99)))[:500])):
        (folder / name).write_bytes(raw)
    source = open_source(str(folder))
    data = OrderedDataset(source, SampleOrder(source.shard_sizes, 0, 1, shuffle=False), SamplePreparation(processor))
    batch = next(iter(build_loader(data, [list(range(8))], 0, False)))
    assert batch["weights"].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]
    assert batch["errors"][2] == "the file is empty"
    assert [error is None for error in batch["errors"]] == [True, True, False, False, False, True, True, True]
    assert batch["encoder_pixels"][2:5].max() == 0
    assert batch["names"][2] == "bad1.jpg"


def test_processor_errors_are_bad_samples(folder):
    class Refusing:
        decoder_resolution, encoder_resolution, encoder_view_from_original = 4, 8, False

        def __call__(self, image):
            raise SyntaxError("broken\nEXIF")

    source = open_source(str(folder))
    place = OrderedDataset(source, SampleOrder(source.shard_sizes, 0, 1), SamplePreparation(Refusing()))[0]
    assert place["error"] == "damaged image: broken EXIF"
    assert place["encoder_pixels"].shape == (3, 8, 8)


@pytest.mark.parametrize("part", ["image", "caption", "source"])
def test_an_unexpected_error_is_a_bad_sample_named_as_such(folder, processor, part):
    def fail(*_, **__):
        raise TypeError("never\nforeseen")

    (folder / "captions.json").write_text(json.dumps({"a.jpg": "one"}))
    source = open_source(str(folder), SourceSettings(captions=True))
    if part == "source":
        source.read = fail
    if part == "image":
        sides = {"decoder_resolution": 4, "encoder_resolution": 8, "encoder_view_from_original": False}
        processor = type("Failing", (), {**sides, "__call__": fail})()
    prepare = SamplePreparation(processor, CaptionTokenizer(fail if part == "caption" else Words(), 3, True, EOS))
    place = OrderedDataset(source, SampleOrder(source.shard_sizes, 0, 1), prepare)[0]
    assert place["error"] == "unexpected TypeError: never foreseen"
    assert place["weight"] == 0


def test_a_lack_of_memory_is_no_bad_sample(folder, processor):
    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        SamplePreparation(processor)(0, "a", fail)


def test_validation_pads_with_empty_places(folder, processor):
    source = open_source(str(folder))
    order = SampleOrder(source.shard_sizes, 0, 1, shuffle=False)
    data = OrderedDataset(source, order, SamplePreparation(processor), num_samples=len(source))
    shares = [validation_positions(5, 2, index, 2) for index in range(2)]
    batches = [batch for share in shares for batch in build_loader(data, share, 0, False)]
    assert len(batches) == 4
    assert sum(batch["weights"].sum().item() for batch in batches) == 5
    assert sorted(name for batch in batches for name in batch["names"])[:3] == ["", "", ""]
    assert all(error is None for batch in batches for error in batch["errors"])


def test_captions(folder, processor):
    (folder / "captions.json").write_text(json.dumps({"a.jpg": "one two", "b.png": "  ", "e.tiff": "a bb ccc dddd"}))
    source = open_source(str(folder), SourceSettings(captions=True))
    order = SampleOrder(source.shard_sizes, 0, 1, shuffle=False)
    prepare = SamplePreparation(processor, CaptionTokenizer(Words(), 3, True, EOS))
    data = OrderedDataset(source, order, prepare, num_samples=3)
    batch = next(iter(build_loader(data, [[0, 1, 2, 3]], 0, False)))
    assert batch["weights"].tolist() == [1, 0, 1, 0]
    assert batch["errors"] == [None, "the caption is empty", None, None]
    assert batch["input_ids"].tolist() == [[3, 3, EOS], [PAD] * 3, [1, 2, 3], [PAD] * 3]
    assert batch["labels"].tolist() == [[3, 3, EOS], [-100] * 3, [1, 2, 3], [-100] * 3]


def test_parquet_pixels_reach_the_batch(tmp_path, processor):
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    pq.write_table(pa.table({"image": [raw.tobytes()] * 3}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path), SourceSettings(raw_image_shape=(3, 16, 16)))
    data = OrderedDataset(source, SampleOrder(source.shard_sizes, 0, 1), SamplePreparation(processor))
    batch = next(iter(build_loader(data, [[0, 1]], 2, False)))
    assert np.array_equal(batch["decoder_pixels"][0].numpy(), raw)


def test_a_worker_does_not_grow(tmp_path):
    """Batches of 35 MB: stacked in a worker's heap they add as much to it each."""
    (tmp_path / "a.png").write_bytes(encode(picture(0, (160, 120))))
    source = open_source(str(tmp_path))
    prepare = SamplePreparation(VLVImageProcessor(384, 768))
    dataset = OrderedDataset(source, SampleOrder(source.shard_sizes, 0, 1), prepare)
    memory = []
    for _ in build_loader(dataset, [list(range(16))] * 20, 1, False):
        for worker in multiprocessing.active_children():
            memory.append(memory_mib(worker.pid)["Private_Dirty"])
    assert len(memory) > 10
    assert memory[-1] - memory[4] < 100
