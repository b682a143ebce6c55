"""Faults that really happen to a run, through the launchers."""

import io
import shutil
import subprocess
import sys
import tarfile

import pytest

from tests.integration.conftest import ROOT


@pytest.fixture
def tiny(launch, components, sample_photos):
    """A short stage 1; returns the finished process."""

    def run(folder, *arguments, **variables):
        settings = {
            "CONFIG": ROOT / "configs/stage1_tiny.yaml",
            "train_dataset_path": sample_photos,
            "val_dataset_path": sample_photos,
            "output_dir": folder,
            "num_steps": 4,
            "save_step": 2,
            "global_batch_size": 4,
            **components,
        }
        call = ("log_every=1", "val_pictures=0", "num_workers=0", *arguments)
        return launch("train_stage1.sh", *call, **{**settings, **variables})

    return run


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tiny, tmp_path):
    tiny(tmp_path)
    weights = tmp_path / "checkpoints" / "step_00000004" / "model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(tmp_path / "final")
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    call = [sys.executable, "-m", "vlv", "inspect", str(weights.parent), "verify=true"]
    said = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 2
    assert f"{weights} is damaged: its sha256 is another" in said.stderr
    done = tiny(tmp_path, "resume=latest")
    assert done.returncode == 0, done.stderr
    assert f"{weights} is damaged: its sha256 is another; the checkpoint before it is taken" in done.stderr
    assert f"resuming from {tmp_path}/checkpoints/step_00000002: step 2, sample 8" in done.stderr
    assert weights.read_bytes() == before  # trained again, to the same bit
    assert "6 files are as they were written" in subprocess.run(call, cwd=ROOT, capture_output=True, text=True).stdout


CANARIES = [f"CANARY{number}" for number in range(5)]


@pytest.mark.parametrize("fails", [False, True])
def test_credentials_of_a_data_path_are_written_nowhere(tiny, sample_photos, tmp_path, fails):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for photo in sorted(sample_photos.glob("*.jpg")):
            archive.add(photo, photo.name)
        broken = tarfile.TarInfo("broken.jpg")
        broken.size = 4
        archive.addfile(broken, io.BytesIO(b"none"))
    header, user, password, token, other = CANARIES
    urls = f"https://{user}:{password}@host/a.tar?token={token}"
    command = (
        f"cat {shard if not fails else tmp_path / 'gone'}; true -H 'Authorization: Bearer {header}' {urls} {other}"
    )
    folder = tmp_path / "run"
    done = tiny(folder, "wandb_mode=offline", "max_bad_share=1", train_dataset_path=f"pipe:{command}")
    assert done.returncode == fails, done.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".wandb") for path in files)
    assert {folder / name for name in (["error.log"] if fails else ["final/README.md", "bad_samples.jsonl"])} <= {
        *files
    }
    written = {str(path): path.read_bytes() for path in files}
    written |= {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    for name, content in written.items():
        assert not [canary for canary in CANARIES if canary.encode() in content], name
    assert b"pipe:cat" in written[str(folder / "config.yaml")]
