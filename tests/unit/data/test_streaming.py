import itertools

import pytest
import torch

from vlv.data.captions import CaptionTokenizer
from vlv.data.formats import SourceSettings
from vlv.data.order import BatchPlan, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.streaming import StreamedDataset, StreamSettings, build_stream_loader
from vlv.data.tar_stream import expand_stream
from vlv.data.transport import StreamBrokenError

from .pictures import encode, picture, write_tar
from .test_captions import EOS, Words


@pytest.fixture
def shards(tmp_path):
    for shard in range(3):
        members = []
        for number in range(4):
            key = f"{shard}{number}"
            members += [(f"{key}.png", encode(picture(int(key)))), (f"{key}.txt", b"one two")]
        write_tar(tmp_path / f"{shard}.tar", members)
    return f"pipe:cat {tmp_path}/{{0..2}}.tar"


def stream(path, processor, plan, start=0, steps=6, tokenizer=None, num_threads=1, max_bad_share=1.0):
    source = SourceSettings(captions=tokenizer is not None, max_bad_share=max_bad_share)
    settings = StreamSettings(3, source, window=5, num_threads=num_threads)
    return StreamedDataset(
        path, training_positions(plan, start, steps), SamplePreparation(processor, tokenizer), settings
    )


def names(dataset):
    return [name for batch in dataset for name in batch["names"]]


def test_epochs_are_permutations(shards, processor):
    read = names(stream(shards, processor, BatchPlan(4, 1, 0, 2)))
    assert sorted(read[:12]) == sorted(read[12:]) == [f"{s}.tar/{s}{n}.png" for s in range(3) for n in range(4)]
    assert read[:12] != read[12:]


def test_resuming_and_processes(shards, processor):
    whole = list(stream(shards, processor, BatchPlan(4, 1, 0, 4)))
    rest = list(stream(shards, processor, BatchPlan(4, 1, 0, 4), start=8, steps=4))
    assert [batch["names"] for batch in rest] == [batch["names"] for batch in whole[2:]]
    assert torch.equal(rest[0]["encoder_pixels"], whole[2]["encoder_pixels"])
    shares = [list(stream(shards, processor, BatchPlan(4, 2, index, 1))) for index in range(2)]
    together = [batch["names"][0] for pair in zip(*shares, strict=True) for batch in pair]
    assert together == [name for batch in whole for name in batch["names"]]


def test_captions_and_worker(shards, processor):
    tokenizer = CaptionTokenizer(Words(), 3, True, EOS)
    dataset = stream(shards, processor, BatchPlan(4, 1, 0, 4), tokenizer=tokenizer, num_threads=2)
    batch = next(iter(build_stream_loader(dataset, pin_memory=False)))
    assert batch["labels"].tolist() == [[3, 3, EOS]] * 4
    assert batch["weights"].tolist() == [1] * 4


def test_missing_captions_are_bad_samples(tmp_path, processor):
    write_tar(tmp_path / "x.tar", [("a.png", encode(picture())), ("b.png", b"broken"), ("b.txt", b"b")])
    tokenizer = CaptionTokenizer(Words(), 3, True, EOS)
    dataset = stream(f"pipe:cat {tmp_path}/x.tar", processor, BatchPlan(2, 1, 0, 2), tokenizer=tokenizer)
    batch = next(iter(dataset))
    assert batch["weights"].tolist() == [0, 0]
    reasons = dict(zip(batch["names"], batch["errors"], strict=True))
    assert "no .txt or .json caption" in reasons["x.tar/a.png"]
    assert "not an image" in reasons["x.tar/b.png"]


def test_a_missing_shard_ends_the_stream_by_name(shards, processor):
    """Skipped by one process alone, it would put the processes out of step."""
    with pytest.raises(ValueError, match=r"status 1 at the end of pipe:cat .*/3\.tar"):
        names(stream(shards.replace("0..2", "0..3"), processor, BatchPlan(4, 1, 0, 4), steps=9))


def test_a_damaged_shard_is_a_warning(shards, tmp_path, processor, caplog):
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:4000])
    read = names(stream(shards, processor, BatchPlan(4, 1, 0, 4), steps=2))
    assert len(set(read)) == 8
    assert "1 of 3 shards are damaged" in caplog.text
    with pytest.raises(StreamBrokenError, match=r"1 of 3 shards are damaged and at most 0.0% may be"):
        names(stream(shards, processor, BatchPlan(4, 1, 0, 4), steps=2, max_bad_share=0))


def test_a_stream_that_gives_nothing_on_the_way_ends_with_one_line(tmp_path, processor):
    write_tar(tmp_path / "x.tar", [(f"{n}.png", encode(picture(n))) for n in range(3)])
    dataset = stream(f"pipe:cat {tmp_path}/x.tar", processor, BatchPlan(1, 1, 0, 1), steps=9)
    write_tar(tmp_path / "x.tar", [])
    with pytest.raises(ValueError, match="the stream broke: pass 1 over it gave no image"):
        names(dataset)


def test_nothing_to_stream(tmp_path, processor):
    write_tar(tmp_path / "x.tar", [])
    with pytest.raises(ValueError, match="no shard of the stream gives an image"):
        stream(f"pipe:cat {tmp_path}/x.tar", processor, BatchPlan(4, 1, 0, 4))
    with pytest.raises(ValueError, match=r"status 1 at the end of .*gone\.tar"):
        stream(f"pipe:cat {tmp_path}/gone.tar", processor, BatchPlan(4, 1, 0, 4))


def test_expand_stream():
    assert expand_stream("https://h/{0..1}.tar,http://g/a.tar") == [
        "https://h/0.tar",
        "https://h/1.tar",
        "http://g/a.tar",
    ]
    assert expand_stream("stream:https://h/{0..1}.tar, stream:http://g/a.tar,http://g/b.tar") == [
        "https://h/0.tar",
        "https://h/1.tar",
        "http://g/a.tar",
        "http://g/b.tar",
    ]
    with pytest.raises(ValueError, match=r"stream:s3://b/a\.tar cannot be streamed"):
        expand_stream("stream:s3://b/a.tar")
    assert expand_stream("pipe:a b,c") == ["pipe:a b,c"]
    assert list(itertools.islice(expand_stream("pipe:cat {a,b}.tar"), 2)) == ["pipe:cat a.tar", "pipe:cat b.tar"]
