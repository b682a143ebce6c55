"""`vlv caption engine=ray` on a local cluster: nothing lost, nothing twice, when workers and the driver are killed."""

import json
import os
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


def call(folder, output, *more):
    command = [sys.executable, "-m", "vlv", "caption", str(folder), f"ckpt_dir={CAPTIONER}", "num_beams=1"]
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
