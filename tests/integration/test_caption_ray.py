"""`vlv caption engine=ray` on a local cluster: nothing lost, nothing twice, when workers and the driver are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vlv.recipes.caption_ray import actor_shares
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

ray = pytest.importorskip("ray")
CAPTIONER = assets_folder() / "tiny" / "trained" / "captioner"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(60):
        render(make_scene("test", number % 12), number % 12).save(folder / f"{number:03}.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


def call(folder, output, *more, captioner=CAPTIONER):
    command = [sys.executable, "-m", "vlv", "caption", str(folder), f"ckpt_dir={captioner}", "num_beams=1"]
    return [*command, f"output_path={output}", "to=jsonl", *more]


@pytest.mark.slow
def test_captions_on_ray_are_those_without_it_whatever_dies(photos, tmp_path):
    subprocess.run(call(photos, tmp_path / "plain.jsonl"), check=True)
    output = tmp_path / "ray.jsonl"
    arguments = call(photos, output, "engine=ray", "ray_decoders=2", "ray_captioners=2", "batch_size=4")
    done = tmp_path / "ray.jsonl.partial" / "done"

    def started():
        process = subprocess.Popen(arguments, start_new_session=True)
        until = time.monotonic() + 300  # six processes start on a busy machine
        count = len(list(done.glob("*"))) if done.is_dir() else 0
        while (len(list(done.glob("*"))) if done.is_dir() else 0) < count + 2 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        return process

    first = started()
    killed = 0
    for worker in psutil.Process(first.pid).children(recursive=True):
        name = " ".join(worker.cmdline())
        if ("_Caption" in name or "_Encode" in name) and killed < 2:  # actors in the middle of their work
            worker.kill()
            killed += 1
    assert killed == 2
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)  # the driver
    first.wait()
    assert not output.exists()
    left = len(list(done.glob("*")))
    assert 0 < left < 61
    subprocess.run(arguments, check=True, timeout=400)
    assert sorted(output.read_text().splitlines()) == sorted((tmp_path / "plain.jsonl").read_text().splitlines())
    assert len(output.read_text().splitlines()) == 60
    assert json.loads(Path(tmp_path / "ray_bad_samples.jsonl").read_text())["name"] == "broken.png"
    assert not done.parent.exists()


@pytest.mark.slow
def test_an_output_of_files_that_is_whole_is_left_as_it_is(photos, tmp_path):
    subprocess.run(call(photos, tmp_path / "out", "to=parquet", "batch_size=4"), check=True)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    again = subprocess.run(
        call(photos, tmp_path / "out", "to=parquet", "batch_size=4", "engine=ray"), check=True, capture_output=True,
        text=True, timeout=400,
    )  # fmt: skip
    assert "is whole, so there is nothing to do" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.slow
def test_a_worker_that_sees_other_images_ends_the_run(photos, tmp_path):
    """The listing of the driver is of an image more than that of the workers, which list it later."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    code = (
        "import sys, os; from vlv.recipes import caption_ray\n"
        f"digest = caption_ray.listing_digest; os.environ['RAY_DEDUP_LOGS'] = '0'\n"
        f"def look(source):\n    found = digest(source); os.path.exists({str(folder / '000.png')!r}) and "
        f"os.remove({str(folder / '000.png')!r}); return found\n"
        "caption_ray.listing_digest = look\n"
        "from vlv.recipes.caption import run; from vlv.config import CaptionConfig\n"
        f"run(CaptionConfig(image_path={str(folder)!r}, ckpt_dir={str(CAPTIONER)!r}, engine='ray', num_beams=1, "
        f"to='parquet', output_path={str(tmp_path / 'out')!r}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400)
    assert ended.returncode != 0
    assert "has changed: start again, which goes on with the rest" in ended.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "gguf"])
def test_smaller_captioners_on_ray_say_what_they_say_without_it(photos, tmp_path, kind):
    """Their encoder and their language model are in processes of their own."""
    pytest.importorskip({"int8": "torchao", "gguf": "llama_cpp"}[kind])
    captioner, settings = CAPTIONER, ["precision=fp32", "batch_size=4", f"quantize={kind}"]
    if kind == "gguf":
        captioner, settings = tmp_path / "q8", settings[:2]
        export = [sys.executable, "-m", "vlv", "export", "gguf", str(CAPTIONER), str(captioner), "format=q8_0"]
        subprocess.run(export, check=True)
    for engine in ("plain", "ray"):
        more = [*settings, f"engine={engine}"]
        subprocess.run(call(photos, tmp_path / f"{engine}.jsonl", *more, captioner=captioner), check=True, timeout=400)
    assert (tmp_path / "ray.jsonl").read_text() == (tmp_path / "plain.jsonl").read_text()
    assert len((tmp_path / "ray.jsonl").read_text().splitlines()) == 60


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("encoders", [None, 3])
def test_all_actors_find_their_place(gpus, encoders):
    """On a cluster that claims to have these GPUs; Ray gives out the first that has room."""

    @ray.remote
    class Actor:
        def there(self):
            return True

    ray.init(num_cpus=2, num_gpus=gpus, log_to_driver=False, logging_level="ERROR")
    try:
        shares = actor_shares(None, encoders, 2, gpus)
        actors = [
            Actor.options(num_cpus=share.cpus, num_gpus=share.gpus).remote()
            for share in (shares.encoder, shares.captioner)
            for _ in range(share.count)
        ]
        assert all(ray.get([actor.there.remote() for actor in actors], timeout=120))
    finally:
        ray.shutdown()
