"""`vlv benchmark data`: the ways of reading do the same work, and the table holds what was measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlv.benchmarks.loading import PLAIN, WEBDATASET, Run, median, plain_pixels, ways
from vlv.benchmarks.pictures import jpegs, write_datasets
from vlv.benchmarks.serving import serve_folder
from vlv.cli.benchmark_data import main
from vlv.config import BenchmarkDataConfig
from vlv.models.image_processor import VLVImageProcessor

SIZES = {"images": 16, "side": 96, "batch_size": 4, "decoder_resolution": 24, "encoder_resolution": 48}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_way_reads_the_same_pixels(tmp_path, num_workers, monkeypatch):
    config = BenchmarkDataConfig(num_workers=num_workers, **SIZES)
    found = {}
    paths = write_datasets(tmp_path, jpegs(16, 96))
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("VLV_CACHE_DIR", str(tmp_path / "cache"))
    with serve_folder(Path(paths["tar"])) as url:
        read = [(way, list(way.open())) for way in ways(paths, config, url)]
    for way, batches in read:
        assert [len(batch["decoder_pixels"]) for batch in batches] == [4] * 4
        assert {batch["decoder_pixels"].dtype for batch in batches} == {torch.uint8}
        pixels = np.concatenate([batch["decoder_pixels"].numpy() for batch in batches])
        found[way.name] = {image.tobytes() for image in pixels}
        fast = "device" in way.name
        assert batches[0]["encoder_pixels"].shape[-1] == (24 if fast else 48)
    reduced = found.popitem()[1]
    assert len(reduced) == 16
    assert len(found) == 9
    assert all(pixels == found[PLAIN] for pixels in found.values())
    assert len(found[WEBDATASET]) == 16


def test_plain_pixels_are_the_processors():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    ours, plain = VLVImageProcessor(32, 64)(image), plain_pixels(image, 32, 64)
    for key, pixels in plain.items():
        assert torch.equal(ours[key], pixels)


def test_medians():
    runs = [Run(1.0, 5.0, 0.1, None), Run(3.0, 4.0, 0.3, 7.0), Run(2.0, 6.0, 0.2, 9.0)]
    assert median(runs) == Run(2.0, 5.0, 0.2, 8.0)


def test_the_table(tmp_path, capsys):
    main([f"{key}={value}" for key, value in SIZES.items()] + ["rounds=1", f"json={tmp_path / 'runs.json'}"])
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows][:3] == [PLAIN, WEBDATASET, "vlv, folder"]
    assert len(rows) == 10
    assert re.search(r"changes the decoder's pixels by \d+\.\d\d of 255 on average", out)
    facts = json.loads((tmp_path / "runs.json").read_text())
    runs = facts["runs"]["vlv, tar"]
    assert len(runs) == 1
    assert float(rows[3][1]) == pytest.approx(runs[0]["per_cpu_second"], abs=0.06)
    assert runs[0]["worker_mib"] > 1
