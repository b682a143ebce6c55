"""Packing: what arrives is what was there, whatever the format, the workers and the interruptions."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.processes import runs
from tests.unit.data.pictures import encode, picture
from vlv.cli.lock import place_lock
from vlv.colour import to_rgb
from vlv.data import SourceSettings, decode_image, open_source


def samples(path, **settings):
    """(bytes, caption) of every sample."""
    source = open_source(str(path), SourceSettings(captions=True, **settings))
    return [source.read(index) for index in range(len(source))]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def members(path):
    """{name: content} of an archive, in its order."""
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_a_folder_survives_tar_and_parquet(call, photos, tmp_path):
    there = samples(photos)
    assert len(there) == 11
    tar, parquet, back = tmp_path / "tar", tmp_path / "parquet", tmp_path / "back"
    assert call("shards", photos, tar, "samples_per_shard=4", "num_workers=0")[0] == 0
    assert call("shards", tar, parquet, "format=parquet", "row_group_size=3", "num_workers=0")[0] == 0
    assert call("shards", parquet, back, "num_workers=0")[0] == 0
    for place in (tar, parquet, back):
        assert samples(place) == there
        for (data, _), (original, _) in zip(samples(place), there, strict=True):
            assert (np.asarray(decode_image(data)) == np.asarray(decode_image(original))).all()
    assert open_source(str(tar)).shard_sizes.tolist() == [4, 4, 3]
    assert open_source(str(parquet)).shard_sizes.tolist() == [3, 3, 3, 2]
    names = list(members(tar / "00001.tar"))
    assert names[:2] == ["000000004.png", "000000004.txt"]
    assert "000000006.jpg" in names
    assert "000000001.json" in members(tar / "00000.tar")  # a .txt would lose the caption's spaces


def test_the_manifest_describes_the_files(call, photos, tmp_path):
    out = tmp_path / "out"
    assert call("shards", photos, out, "samples_per_shard=4", "num_workers=0")[0] == 0
    found = manifest(out)
    assert found["complete"]
    assert [shard["samples"] for shard in found["shards"]] == [4, 4, 3]
    for shard in found["shards"]:
        data = (out / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert found["samples"] == 11
    assert found["bytes"] == sum(path.stat().st_size for path in out.glob("*.tar"))
    assert sorted(path.name for path in out.iterdir()) == ["00000.tar", "00001.tar", "00002.tar", "manifest.json"]
    with tarfile.open(out / "00000.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive} == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_workers_and_time_change_no_byte(call, photos, tmp_path, kind):
    options = [f"format={kind}", "samples_per_shard=2", "short_side=16", "duplicates=exact"]
    (photos / "sub" / "copy.png").write_bytes((photos / "00.png").read_bytes())
    assert call("shards", photos, tmp_path / "one", *options, "captions=off", "num_workers=1")[0] == 0
    assert call("shards", photos, tmp_path / "three", *options, "captions=off", "num_workers=3")[0] == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert manifest(tmp_path / "one")["left_out"] == {"duplicate": 1}


STUCK = """
import sys, time
from pathlib import Path
import vlv.datatools.packing as packing
convert = packing.convert_at
def slow(source, index, config, outcome):
    if index == 9:  # in the middle of the third shard
        Path(sys.argv[3]).write_text("there")
        time.sleep(600)
    return convert(source, index, config, outcome)
packing.convert_at = slow
from vlv.cli.main import main
main(["data", "shards", sys.argv[1], sys.argv[2], "samples_per_shard=4", "num_workers=2", "duplicates=keep"])
"""


@pytest.mark.distributed
def test_a_killed_call_is_continued_to_the_same_bytes(call, photos, tmp_path):
    out, whole, mark = tmp_path / "out", tmp_path / "whole", tmp_path / "mark"
    command = [sys.executable, "-c", STUCK, str(photos), str(out), str(mark)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: mark.exists() and len(list(out.glob(".parts/*.json"))) == 2)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(runs, workers)))  # else they would write beside the next call
    assert list(out.glob(".*.tmp"))
    assert not manifest(out)["complete"]
    code, _, err = call("shards", out, "verify=true")
    assert code == 2
    assert "is not complete" in err
    first = (out / "00000.tar").stat().st_mtime_ns
    same = ["samples_per_shard=4", "num_workers=0"]
    assert call("shards", photos, out, *same)[0] == 0
    assert (out / "00000.tar").stat().st_mtime_ns == first  # finished ones are not written again
    assert call("shards", photos, whole, *same)[0] == 0
    assert contents(out) == contents(whole)
    assert call("shards", photos, out, *same)[1].splitlines()[-1].endswith("3 webdataset shards, 11 samples, 0.1 MB")


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(process):
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(child) for child in file.read().split()]


def test_a_scan_for_duplicates_that_was_interrupted_is_continued(call, photos, tmp_path, monkeypatch):
    import vlv.datatools.packing as packing

    (photos / "99.png").write_bytes((photos / "03.png").read_bytes())
    options = ["samples_per_shard=4", "num_workers=0", "duplicates=exact", "captions=off"]
    whole, out, read = tmp_path / "whole", tmp_path / "out", []
    call("shards", photos, whole, *options)
    convert = packing.convert_at

    def interrupted(source, index, config, outcome):
        read.append(index)
        if len(read) == 6:
            raise KeyboardInterrupt
        return convert(source, index, config, outcome)

    monkeypatch.setattr(packing, "convert_at", interrupted)
    assert call("shards", photos, out, *options)[0] == 130
    assert call("shards", photos, out, *options)[0] == 0
    assert read[6] == 4  # the first shard's fingerprints were kept
    assert contents(out) == contents(whole)


def test_another_call_into_the_folder_is_refused_with_old_and_new(call, photos, tmp_path):
    out = tmp_path / "out"
    call("shards", photos, out, "num_workers=0", "quality=90")
    before = contents(out)
    code, _, err = call("shards", photos, out, "num_workers=0", "min_side=3")
    assert code == 2
    assert "quality was 90 and is 95; min_side was null and is 3. Give another folder" in err
    (photos / "more.png").write_bytes(encode(picture(1)))
    code, _, err = call("shards", photos, out, "num_workers=0", "quality=90", "captions=off")
    assert code == 2
    for change in ("captions was auto and is off", "had captions and now have none", "had 11 samples and has 12"):
        assert change in err
    (photos / "more.png").unlink()
    (photos / "sub" / "f.tif").rename(photos / "sub" / "g.tif")
    code, _, err = call("shards", photos, tmp_path / "images", "num_workers=0", "captions=off")
    (photos / "sub" / "g.tif").rename(photos / "sub" / "h.tif")
    code, _, err = call("shards", photos, tmp_path / "images", "num_workers=0", "captions=off")
    assert code == 2
    assert "other names" in err
    assert contents(out) == before


def test_places_that_cannot_be_written_are_refused(call, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    code, _, err = call("shards", photos, other, "num_workers=0")
    assert code == 2
    assert "holds other data (thesis.tex): give a new or empty folder" in err
    assert contents(other) == {"thesis.tex": b"years of work"}
    code, _, err = call("shards", photos, other / "thesis.tex" / "out")
    assert code == 2
    assert "cannot be written" in err
    code, _, err = call("shards", photos, photos / "shards")
    assert code == 2
    assert "would become data itself" in err
    assert "can only be streamed" in call("shards", "pipe:cat x.tar", tmp_path / "s")[2]
    assert "does not exist" in call("shards", tmp_path / "absent", tmp_path / "s")[2]
    assert not (tmp_path / "s").exists()


def test_two_writers_are_kept_apart(call, photos, tmp_path):
    out = tmp_path / "out"
    hold = "from pathlib import Path; import sys; from vlv.cli.lock import place_lock\n"
    hold += "with place_lock('x', Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        code, _, err = call("shards", photos, out, "num_workers=0")
        assert code == 2
        assert f"destination={out} is in use by process {holder.pid}" in err
        holder.communicate("")
    with place_lock("x", out / ".lock"):
        pass
    assert call("shards", photos, out, "num_workers=0")[0] == 0


def test_a_full_disk_keeps_what_is_finished(call, photos, tmp_path, monkeypatch):
    add, added = tarfile.TarFile.addfile, []

    def full(self, info, file=None):
        added.append(info.name)
        if info.name == "000000005.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, info, file)

    out = tmp_path / "out"
    options = ["samples_per_shard=4", "num_workers=0"]
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        code, _, err = call("shards", photos, out, *options)
    assert code == 1
    assert "free some space and call again" in err
    assert sorted(path.name for path in out.iterdir()) == [".parts", "00000.tar", "manifest.json"]
    assert call("shards", photos, out, *options)[0] == 0
    assert samples(out) == samples(photos)


def test_large_images_are_made_smaller_and_no_other_is_touched(call, photos, tmp_path):
    out = tmp_path / "out"
    assert call("shards", photos, out, "short_side=32", "encoding=png", "keep_names=true", "num_workers=0")[0] == 0
    source = open_source(str(out))
    original = open_source(str(photos))
    changed = []
    for index in range(len(source)):
        data, before = source.read(index).image, original.read(index).image
        if data != before:
            changed.append(original.name(index))
            expected = to_rgb(decode_image(before))
            size = tuple(round(side * 32 / min(expected.size)) for side in expected.size)
            assert min(size) == 32
            expected = expected.resize(size, Image.Resampling.LANCZOS)
            assert (np.asarray(decode_image(data)) == np.asarray(expected)).all()
    assert changed == ["sub/a.b.jpg"]  # 64 x 48 and turned; the others have short sides of 20 to 30
    kept = json.loads(members(out / "00000.tar")["000000006.json"])
    assert kept == {"name": "sub/a.b.jpg"}


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_quality_is_that_of_the_encoder(call, photos, tmp_path, encoding, kind):
    options = ["short_side=16", f"encoding={encoding}", "num_workers=0", "format=parquet", "keep_names=true"]
    call("shards", photos, tmp_path / "high", *options, "quality=95")
    call("shards", photos, tmp_path / "low", *options, "quality=30")
    high = pq.read_table(tmp_path / "high" / "00000.parquet").to_pylist()
    low = pq.read_table(tmp_path / "low" / "00000.parquet").to_pylist()
    assert [row["name"] for row in high] == [row["name"] for row in low]
    assert all(len(b["image"]) < len(a["image"]) for a, b in zip(high, low, strict=True))
    assert decode_image(high[0]["image"]).format == kind


def test_filters_count_what_they_leave_out(call, photos, tmp_path):
    captions = json.loads((photos / "captions.json").read_text())
    captions["02.png"] = "short"
    captions["03.png"] = "far too long " * 9
    captions["04.png"] = " "
    (photos / "captions.json").write_text(json.dumps(captions))
    (photos / "05.png").write_bytes(b"no image")
    (photos / "00.png").write_bytes((photos / "00.png").read_bytes()[:200])
    limits = ["min_side=25", "min_aspect=0.5", "max_aspect=2", "min_caption_words=2", "max_caption_words=20"]
    code, out, _ = call("shards", photos, tmp_path / "out", *limits, "num_workers=0", "keep_names=true")
    assert code == 0
    found = manifest(tmp_path / "out")
    assert found["left_out"] == {
        "bad": 3,
        "max_aspect": 1,  # 90 x 30
        "max_caption_words": 1,
        "min_caption_words": 1,
        "min_side": 1,  # 20 x 70
    }
    assert found["samples"] == 4
    records = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(record["name"], record["position"]) for record in records] == [("00.png", 0), ("04.png", 4), ("05.png", 5)]
    assert records[1]["reason"] == "the caption is empty"
    assert records[2]["reason"].startswith("not an image of a known format")
    assert sum(found["bad_reasons"].values()) == 3
    assert "3 bad" in out
    # The turned one is 48 x 64 upright: 0.75, and 1.33 as it lies.
    code, _, _ = call("shards", photos, tmp_path / "tall", "max_aspect=0.8", "captions=off", "num_workers=0")
    assert code == 0
    assert [len(data) for data, _ in map(open_source(str(tmp_path / "tall")).read, range(2))] == [
        (photos / "sub" / name).stat().st_size for name in ("a.b.jpg", "d.JPEG")
    ]


def test_truncated_images_are_read_listed_and_counted(call, photos, tmp_path):
    data = encode(picture(3, (64, 64)), "JPEG")
    (photos / "00.png").write_bytes(data[:-2])
    code, out, _ = call("shards", photos, tmp_path / "out", "num_workers=0")
    assert code == 0
    assert "truncated, and read: 1" in out
    assert manifest(tmp_path / "out")["left_out"] == {}
    (line,) = (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "truncated, read"
    call("shards", photos, tmp_path / "strict", "num_workers=0", "read_truncated=false")
    assert manifest(tmp_path / "strict")["left_out"] == {"bad": 1}


def test_duplicates_leave_the_first_that_no_filter_leaves_out(call, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    images = {"a.png": picture(1), "b.png": picture(2), "c.png": picture(1), "d.png": picture(1)}
    for name, image in images.items():
        (root / name).write_bytes(encode(image))
    (root / "captions.json").write_text(json.dumps({"a.png": "one", "b.png": "x y", "c.png": "x y", "d.png": "x y"}))
    options = ["samples_per_shard=1", "num_workers=0", "min_caption_words=2", "duplicates=exact", "keep_names=true"]
    assert call("shards", root, tmp_path / "out", *options)[0] == 0
    kept = [members(path)[f"00000000{int(path.stem)}.json"] for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert kept == [b'{"name": "b.png"}', b'{"name": "c.png"}']
    found = manifest(tmp_path / "out")
    assert found["left_out"] == {"duplicate": 1, "min_caption_words": 1}
    assert [shard["name"] for shard in found["shards"]] == ["00001.tar", "00002.tar"]  # an empty one has no file


def test_near_duplicates_are_the_same_picture_in_other_bytes(call, sample_photos, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for path in sample_photos.glob("*.jpg"):
        (root / path.name).write_bytes(path.read_bytes())
        with Image.open(path) as image:
            image.save(root / f"{path.stem}-copy.png")
    exact, near = tmp_path / "exact", tmp_path / "near"
    call("shards", root, exact, "duplicates=exact", "num_workers=0")
    call("shards", root, near, "duplicates=near", "num_workers=0")
    assert manifest(exact)["samples"] == 8
    assert manifest(near)["samples"] == 4


def test_a_missing_imagehash_is_named_with_its_fix(call, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("vlv.extras.find_spec", lambda name: None)
    code, _, err = call("shards", photos, tmp_path / "out", "duplicates=near")
    assert code == 2
    assert "pip install 'vlv[duplicates]'" in err


def test_shards_of_a_size(call, tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(30):
        (root / f"{number:02d}.png").write_bytes(encode(picture(number, (100, 100))))
    assert call("shards", root, tmp_path / "out", "shard_mb=0.2", "num_workers=0")[0] == 0
    shards = manifest(tmp_path / "out")["shards"]
    assert len(shards) == 5  # 30 KB of noise each, so 6 a shard
    assert all(180_000 < shard["bytes"] < 220_000 for shard in shards)


def test_raw_pixels_become_images_of_the_same_pixels(call, tmp_path):
    import pyarrow as pa

    arrays = [np.asarray(picture(number, (8, 8))) for number in range(3)]
    npy = [encode_npy(array) for array in arrays]
    pq.write_table(pa.table({"image": [array.tobytes() for array in arrays]}), tmp_path / "raw.parquet")
    pq.write_table(pa.table({"image": npy}), tmp_path / "npy.parquet")
    call("shards", tmp_path / "raw.parquet", tmp_path / "raw", "raw_image_size=[8,8,3]", "num_workers=0")
    call("shards", tmp_path / "npy.parquet", tmp_path / "npy", "num_workers=0", "check_images=false")
    for place in ("raw", "npy"):
        source = open_source(str(tmp_path / place))
        assert all((np.asarray(decode_image(source.read(n).image)) == arrays[n]).all() for n in range(3))


def encode_npy(array):
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_unchecked_images_are_packed_unseen(call, photos, tmp_path):
    cut = (photos / "00.png").read_bytes()[:500]
    (photos / "00.png").write_bytes(cut)
    (photos / "02.png").write_bytes(b"")
    assert call("shards", photos, tmp_path / "out", "check_images=false", "num_workers=0")[0] == 0
    assert samples(tmp_path / "out")[0][0] == cut
    assert manifest(tmp_path / "out")["bad_reasons"] == {"the file is empty": 1}


def test_nothing_left_is_an_error(call, photos, tmp_path):
    for _ in range(2):
        code, _, err = call("shards", photos, tmp_path / "out", "min_side=5000", "num_workers=0")
        assert code == 2
        assert "not one of the 11 samples" in err
        assert "11 min_side" in err


def test_verify_names_what_differs(call, photos, tmp_path):
    out = tmp_path / "out"
    call("shards", photos, out, "samples_per_shard=2", "num_workers=0")
    for arguments in ((out, "verify=true"), (photos, out, "verify=true")):
        code, printed, _ = call("shards", *arguments)
        assert code == 0
        assert "6 shards with 11 samples are as they were written" in printed
    flipped = bytearray((out / "00001.tar").read_bytes())
    flipped[600] ^= 1
    (out / "00001.tar").write_bytes(flipped)
    (out / "00002.tar").write_bytes(b"short")
    (out / "00003.tar").unlink()
    (out / "00009.tar").write_bytes((out / "00000.tar").read_bytes())
    record = manifest(out)
    record["shards"][4]["samples"] = 3
    (out / "manifest.json").write_text(json.dumps(record))
    code, printed, err = call("shards", out, "verify=true")
    assert code == 1
    assert printed.splitlines() == [
        "00001.tar: its sha256 is not the manifest's",
        f"00002.tar: 5 bytes, the manifest says {record['shards'][2]['bytes']:,}",
        "00003.tar: it is missing",
        "00004.tar: 2 samples, the manifest says 3",
        "manifest.json: a total of 11, its shards have 12",
        "00009.tar: it is not in the manifest",
    ]
    assert f"{out}: 6 differences" in err
    assert "has no manifest.json" in call("shards", photos, "verify=true")[2]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("quality=0", "quality=0 cannot be used"),
        ("samples_per_shard=0", "samples_per_shard=0"),
        ("shard_mb=-1", "shard_mb=-1"),
        ("format=zip", "webdataset, parquet"),
        ("min_caption_words=2 captions=off", "limits of words need captions"),
        ("check_images=false short_side=8", "check_images=false"),
    ],
)
def test_calls_that_cannot_work(call, photos, tmp_path, argument, message):
    code, _, err = call("shards", photos, tmp_path / "out", *argument.split())
    assert code == 2
    assert message in err
    (photos / "captions.json").unlink()
    assert "has no captions" in call("shards", photos, tmp_path / "out", "max_caption_words=9")[2]
    assert not (tmp_path / "out").exists()
    assert "needs a dataset and a folder" in call("shards", photos)[2]
