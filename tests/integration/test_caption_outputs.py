"""`vlv caption` into every kind of output and as a Slurm array, by its launchers, on the small world's captioner."""

import json
import os
import shutil
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import ROOT
from vlv import VLVCaptioner
from vlv.data import SourceSettings, open_source
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

CAPTIONER = assets_folder() / "tiny" / "trained" / "captioner"
COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number in range(COUNT):
        render(make_scene("test", number), number).save(
            folder / ("more" if number % 3 == 0 else "") / f"{number:02}.png"
        )
    return folder


@pytest.fixture(scope="module")
def expected(photos):
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    captions = VLVCaptioner.from_pretrained(CAPTIONER).caption([photos / name for name in names], num_beams=1)
    return dict(zip(names, captions, strict=True))


def vlv(*arguments, cwd, **environment):
    call = [sys.executable, "-m", "vlv", *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def caption(tmp_path):
    def run(*arguments, code=0):
        done = vlv("caption", *arguments, f"ckpt_dir={CAPTIONER}", "num_beams=1", cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done

    return run


def test_texts_beside_the_images(caption, photos, expected, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "01.txt").write_text("mine\n")
    done = caption("photos", "to=txt", "prefix=sks, ")
    assert "captions of 11 of 12 images" in done.stdout
    assert "1 had one" in done.stdout
    for name, text in expected.items():
        said = (tmp_path / "photos" / name).with_suffix(".txt").read_text()
        assert said == ("mine\n" if name == "01.png" else f"sks, {text}\n")
    caption("photos", "to=txt", "output_path=texts")
    assert (tmp_path / "texts" / "more" / "00.txt").read_text() == expected["more/00.png"] + "\n"


def test_shards_in_and_out(caption, photos, expected, tmp_path):
    caption(photos, "to=webdataset", "output_path=shards")
    source = open_source(str(tmp_path / "shards"), SourceSettings(captions=True, cache_dir=str(tmp_path / "cache")))
    assert [source.read(index).caption for index in range(COUNT)] == list(expected.values())
    caption("shards", "to=parquet", "output_path=table")
    rows = [row for path in sorted((tmp_path / "table").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["caption"] for row in rows] == [[text] for text in expected.values()]
    assert "nothing to do" in caption("shards", "to=parquet", "output_path=table").stdout


def test_several_sampled_captions(caption, photos, tmp_path):
    lines = []
    for batch in (3, 5):
        caption(photos, "to=jsonl", "temperature=1.0", "captions_per_image=2", "seed=4", f"batch_size={batch}")
        lines.append((tmp_path / "captions.jsonl").read_text())
    assert lines[0] == lines[1]
    rows = [json.loads(line) for line in lines[0].splitlines()]
    assert len(rows) == COUNT
    assert all(len(row["caption"]) == 2 for row in rows)


def test_a_share_of_bad_images_is_a_failure_with_everything_written(caption, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "00.jpg").write_bytes(b"none")
    done = caption("photos", "max_bad_share=0.05", code=1)
    assert "1 of 13 images could not be read, more than max_bad_share=0.05" in done.stderr
    assert len(json.loads((tmp_path / "captions.json").read_text())) == COUNT
    caption("photos", "max_bad_share=0.1")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["to=txt", "x.tar"], "give output_path=FOLDER"),
        (["captions_per_image=2"], "set temperature=0.7, say"),
        (["part=3/3"], "give I/N with I from 0 to N - 1"),
        (["to=jsonl", "preview_dir=previews"], "previews are of to=json and of a whole run alone"),
    ],
)
def test_bad_calls_are_one_line(caption, photos, tmp_path, arguments, reason):
    (tmp_path / "x.tar").write_bytes(bytes(10240))
    given = arguments if any("=" not in word for word in arguments) else [str(photos), *arguments]
    done = caption(*given, code=2)
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_slurm_array_in_which_a_job_dies(photos, expected, tmp_path):
    (tmp_path / "srun").write_text('#!/usr/bin/env bash\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    script = ROOT / "configs/accelerate/caption.sbatch"

    def job(index, **more):
        environment = {
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "3",
            "SLURM_ARRAY_TASK_ID": str(index), "IMAGE_PATH": str(photos), "CKPT_DIR": str(CAPTIONER),
            "OUTPUT_DIR": str(tmp_path / "captions.jsonl"), "NUM_BEAMS": "1", "PYTHON": sys.executable, **more,
        }  # fmt: skip
        call = ["bash", str(script), "to=jsonl", "batch_size=1"]
        return subprocess.Popen(
            call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    dead, done = job(1), tmp_path / "captions.jsonl.partial" / "done"
    until = time.monotonic() + 120
    while not any(done.glob("*.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.005)
    os.killpg(dead.pid, 9)
    dead.wait()
    assert len(list(done.glob("*.jsonl"))) < 4, "in the middle of its blocks"
    both = [job(0), job(2)]
    said = [one.communicate()[0] for one in both]
    assert all("blocks are other parts'" in text for text in said), said
    last = job(1)
    assert "captions of 12 of 12 images" in last.communicate()[0]
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert {row["image"]: row["caption"] for row in rows} == expected
    late = job(0)
    assert "nothing to do" in late.communicate()[0]
    assert not (tmp_path / "captions.jsonl.partial").exists()
