import json

import pytest
import torch

from vlv.data.bad_samples import BadSampleLog, TooManyBadSamples


def batch(reasons, first=0, padding=0, truncated=()):
    size = len(reasons) + padding
    return {
        "names": [f"{first + n}.jpg" for n in range(len(reasons))] + [""] * padding,
        "positions": list(range(first, first + size)),
        "errors": [*reasons, *[None] * padding],
        "truncated": [n in truncated for n in range(size)],
        "weights": torch.tensor([float(reason is None) for reason in reasons] + [0.0] * padding),
    }


def test_lines_and_counts(tmp_path):
    log = BadSampleLog(tmp_path / "run" / "bad_samples.jsonl", "train", 1, 0.1)
    batches = [batch([None, "kaputt: ö"], padding=2), batch([None, None], first=2), batch([None, "kaputt: ö"])]
    assert list(log.watch(batches)) == batches
    assert (log.seen, log.bad) == (6, 2)
    lines = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"dataset": "train", "name": "1.jpg", "position": 1, "reason": "kaputt: ö"}
    ]


def test_processes_share_the_file(tmp_path):
    for first in (0, 10):
        list(BadSampleLog(tmp_path / "bad.jsonl", "train", 2, None).watch([batch(["x"], first=first)]))
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2


def test_a_name_is_written_once_for_each_dataset(tmp_path):
    """By several processes, in later epochs, and after a resume."""
    first, second = (BadSampleLog(tmp_path / "bad.jsonl", "train", 2, None) for _ in range(2))
    list(first.watch([batch(["x", "y"])]))
    with (tmp_path / "bad.jsonl").open("a") as file:
        file.write('{"torn\n')
    list(second.watch([batch(["x", "y", "z"])]))
    list(first.watch([batch(["x", "y", "z"])]))
    list(BadSampleLog(tmp_path / "bad.jsonl", "validation", 2, None).watch([batch(["x"])]))
    lines = [line for line in (tmp_path / "bad.jsonl").read_text().splitlines() if "torn" not in line]
    found = [(line["dataset"], line["name"]) for line in map(json.loads, lines)]
    assert found == [("train", "0.jpg"), ("train", "1.jpg"), ("train", "2.jpg"), ("validation", "0.jpg")]
    assert (first.seen, first.bad) == (5, 5)


def test_truncated_images_are_counted_and_named_but_not_bad(tmp_path):
    log = BadSampleLog(tmp_path / "bad.jsonl", "train", 1, 0.1)
    list(log.watch([batch([None, None, "x"], truncated={1})]))
    assert (log.seen, log.bad, log.truncated) == (3, 1, 1)
    lines = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert {line["name"]: line["reason"] for line in lines} == {"1.jpg": "truncated, read", "2.jpg": "x"}


def test_no_bad_sample_no_file(tmp_path):
    list(BadSampleLog(tmp_path / "bad.jsonl", "train", 1, 0.1).watch([batch([None])]))
    assert not (tmp_path / "bad.jsonl").exists()


def test_stops_above_the_share(tmp_path):
    reasons = ["truncated image: 1"] * 12 + ["truncated image: 2"] * 8 + ["not an image"] * 10 + [None] * 70
    log = BadSampleLog(tmp_path / "bad.jsonl", "train", 2, 0.1)
    watched = log.watch(batch(reasons, first=100 * n) for n in range(10))
    for _ in range(4):
        next(watched)
    with pytest.raises(TooManyBadSamples, match=r"150 of 500 samples \(30.0%\).*mostly: truncated image.*bad\.jsonl"):
        next(watched)


@pytest.mark.parametrize("share", [None, 0.3])
def test_continues_at_the_share(tmp_path, share):
    log = BadSampleLog(tmp_path / "bad.jsonl", "train", 1, share)
    list(log.watch(batch(["x"] * 30 + [None] * 70, first=100 * n) for n in range(12)))
    assert (log.seen, log.bad) == (1200, 360)
