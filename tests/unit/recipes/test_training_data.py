import json
import types
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlv.config import Stage1Config, Stage2Config
from vlv.data.captions import CaptionTokenizer
from vlv.data.preparation import SamplePreparation
from vlv.models.image_processor import VLVImageProcessor
from vlv.recipes.batch_sizes import BatchSizes
from vlv.recipes.training_data import (
    Data,
    _require_agreement,
    grouped_by_length,
    open_training_data,
    training_loader,
    validation_batches,
)
from vlv.training.state import TrainState

from ..data.pictures import encode, picture, write_tar
from ..data.test_captions import Words
from ..data.test_several_captions import Numbers


def accept(source):
    """A model that any data fits."""


@pytest.fixture
def shards(tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", [(f"{shard}{n}.png", encode(picture(n))) for n in range(4)])
    return f"pipe:cat {tmp_path}/{{0..1}}.tar"


def accelerator():
    return types.SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, process_index=0, gather=lambda own: own,
        is_local_main_process=True, local_main_process_first=nullcontext,
    )  # fmt: skip


@pytest.mark.parametrize(("sizes", "other"), [([3, 4], [3, 4]), ([3, 4], [3]), ([3, 4], [4, 3])])
def test_processes_must_see_the_same_shards(sizes, other):
    """A parquet file that one machine cannot read would shift that process's order against the others'."""
    sources = [types.SimpleNamespace(shard_sizes=np.array(found, dtype=np.int64)) for found in (sizes, other)]
    digests = []

    def gather(own):
        digests.append(own)
        return torch.cat(digests)

    accelerator = types.SimpleNamespace(device=torch.device("cpu"), gather=gather)
    _require_agreement("data", sources[0], accelerator)
    if sizes == other:
        _require_agreement("data", sources[1], accelerator)
    else:
        with pytest.raises(ValueError, match="data does not hold the same samples for every process"):
            _require_agreement("data", sources[1], accelerator)


def test_the_shuffle_window_reaches_streams(shards, monkeypatch):
    monkeypatch.setattr("vlv.recipes.training_data.build_stream_loader", lambda dataset, *_: dataset)
    config = Stage1Config(shuffle_window=7, num_workers=1)
    sizes = types.SimpleNamespace(global_batch_size=4, micro_batch_size=4)
    prepare = SamplePreparation(VLVImageProcessor(8, 8))
    data = Data(shards, None, 1, None)
    assert training_loader(config, accelerator(), data, sizes, TrainState(), prepare)._settings.window == 7


def test_a_stream_may_be_validation_data(shards, tmp_path):
    config = Stage1Config(val_dataset_path=shards, val_max_samples=6, output_dir=str(tmp_path), num_workers=0)
    sizes = types.SimpleNamespace(micro_batch_size=4)
    batches = validation_batches(config, accelerator(), sizes, SamplePreparation(VLVImageProcessor(8, 8)), accept)
    for _ in range(2):  # at each save
        read = list(batches())
        assert [name for batch in read for name in batch["names"]][:5] == [
            "0.tar/00.png", "0.tar/01.png", "0.tar/02.png", "0.tar/03.png", "1.tar/10.png"
        ]  # fmt: skip
        assert sum(batch["weights"].sum().item() for batch in read) == 6


def test_validation_reads_the_first_of_several_captions(tmp_path):
    """Training reads them in turn: a loss over others would not be that of the validation before."""
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encode(picture(number)))
    captions = {f"{n}.png": [str(n), str(n + 100), str(n + 200)] for n in range(8)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    config = Stage2Config(val_dataset_path=str(tmp_path), output_dir=str(tmp_path), num_workers=0)
    prepare = SamplePreparation(VLVImageProcessor(8, 8), CaptionTokenizer(Numbers(), 1, False, 0))
    (batch,) = validation_batches(config, accelerator(), types.SimpleNamespace(micro_batch_size=8), prepare, accept)()
    assert batch["input_ids"].flatten().tolist() == list(range(8))


@pytest.mark.parametrize(("token_mean", "grouped"), [("global", True), ("per_process", False)])
def test_captions_of_a_step_are_grouped_by_length(token_mean, grouped, tmp_path):
    """But for the published mean, which weighs the captions of a forward pass by those beside them."""
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encode(picture(number)))
    texts = [" ".join(["1"] * count) for count in (3, 9, 1, 7, 2, 8, 4, 6)]
    (tmp_path / "captions.json").write_text(json.dumps({f"{n}.png": text for n, text in enumerate(texts)}))
    config = Stage2Config(dataset_path=str(tmp_path), num_workers=0, token_mean=token_mean)
    sizes = BatchSizes(global_batch_size=8, micro_batch_size=2, num_processes=1)
    prepare = SamplePreparation(VLVImageProcessor(8, 8), CaptionTokenizer(Words(), 16, False, 0))
    data = open_training_data(config, accelerator(), sizes)
    read = list(training_loader(config, accelerator(), replace(data, num_steps=1), sizes, TrainState(), prepare))
    batches = list(grouped_by_length(config, sizes, prepare, read))
    if not grouped:
        assert batches == read
        return
    assert sorted(name for batch in batches for name in batch["names"]) == [f"{n}.png" for n in range(8)]
    assert [batch["input_ids"].shape[1] for batch in batches] == [9, 7, 4, 2]
