"""Faults that really happen to a run, through the launchers."""

import io
import os
import shutil
import signal
import socket
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
        f"cat {shard if not fails else tmp_path / 'gone'} | sh -c cat -H 'Authorization: Bearer {header}' "
        f"'{urls}' {other}"
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


@pytest.fixture
def two_machines(components, sample_photos):
    """Start both launcher calls of a stage 1 of two machines with a process each, over loopback; returns the calls."""
    started = []

    def run(folder, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "CONFIG": str(ROOT / "configs/stage1_tiny.yaml"),
            "ACCELERATE_CONFIG": str(ROOT / "configs/accelerate/cpu.yaml"),
            "NUM_MACHINES": "2",
            "MAIN_PROCESS_IP": "127.0.0.1",
            "MAIN_PROCESS_PORT": str(port),
            **{name: str(value) for name, value in MACHINES_RUN.items()},
            "train_dataset_path": str(sample_photos),
            "val_dataset_path": str(sample_photos),
            "output_dir": str(folder),
            **{name: str(value) for name, value in components.items()},
        }
        call = ["bash", str(ROOT / "train_stage1.sh"), "log_every=1", "val_pictures=0", "num_workers=0", *arguments]
        for rank in (0, 1):
            of_rank = {**environment, "MACHINE_RANK": str(rank)}
            options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen(call, cwd=folder.parent, env=of_rank, **options))
        return started[-2:]

    yield run
    for process in started:
        process.kill()


# One thread each, as the number of threads decides the order of sums: two "machines" share the processors of this one.
MACHINES_RUN = {"num_gpus": 2, "num_steps": 6, "save_step": 2, "global_batch_size": 4, "OMP_NUM_THREADS": 1}


@pytest.mark.distributed
def test_two_machines_form_one_run_which_resumes_when_one_is_killed(two_machines, tiny, tmp_path):
    whole = tiny(tmp_path / "whole", ACCELERATE_CONFIG=ROOT / "configs/accelerate/cpu.yaml", **MACHINES_RUN)
    assert whole.returncode == 0, whole.stderr
    first, second = two_machines(tmp_path / "cut")
    for line in first.stderr:
        if line.startswith("step 3/"):
            os.killpg(_worker_of(second.pid), signal.SIGKILL)
            break
    said = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [1, 1], said
    assert "process 1 was killed" in said[1]
    assert not any("Traceback" in text for text in said)
    assert not (tmp_path / "cut" / "final").exists()
    processes = two_machines(tmp_path / "cut", "resume=latest")
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "step_00000002: step 2, sample 8" in said[0]
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]


def _worker_of(launcher):
    """The process that a launcher started: a session of its own, so its id is its group's."""
    found = subprocess.run(["pgrep", "-P", str(launcher), "-f", "vlv.cli.worker"], capture_output=True, text=True)
    return int(found.stdout.split()[0])


@pytest.fixture
def stop_tiny(components, sample_photos):
    """Start a stage 1 through its launcher, send a signal when it has taken its first step; returns (code, stderr)."""

    def run(folder, *numbers, **variables):
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "CONFIG": str(ROOT / "configs/stage1_tiny.yaml"),
            "train_dataset_path": str(sample_photos),
            "val_dataset_path": str(sample_photos),
            "output_dir": str(folder),
            "num_steps": "40",
            "save_step": "40",
            "global_batch_size": "4",
            **{name: str(value) for name, value in (components | variables).items()},
        }
        call = ["bash", str(ROOT / "train_stage1.sh"), "log_every=1", "val_pictures=0", "dropout=0.1"]
        process = subprocess.Popen(call, cwd=folder.parent, env=environment, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("step 1/"):
                process.send_signal(numbers[0])
            elif len(numbers) > 1 and "second signal" in line:
                process.send_signal(numbers[1])
        return process.wait(), said

    return run


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_after_its_step_and_it_resumes_bit_exact(stop_tiny, tiny, tmp_path, number):
    code, said = stop_tiny(tmp_path / "cut", number)
    assert code == 75, said
    assert "Traceback" not in said
    (saved,) = (tmp_path / "cut" / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    assert 1 <= step < 40
    assert f"stopped after step {step} of 40, which is saved; resume=latest continues" in said
    for name, *resume in (("cut", "resume=latest"), ("whole",)):
        done = tiny(tmp_path / name, *resume, "num_workers=2", "dropout=0.1", num_steps=40, save_step=40)
        assert done.returncode == 0, done.stderr
    cut, whole = (tmp_path / name / "final" / "model.safetensors" for name in ("cut", "whole"))
    assert cut.read_bytes() == whole.read_bytes()


def test_a_second_signal_ends_the_run_at_once(stop_tiny, tmp_path):
    code, said = stop_tiny(tmp_path / "run", signal.SIGTERM, signal.SIGTERM, num_steps=4000)
    # It may have come while the step was being saved; both are ends that the user asked for.
    assert code in (75, 130), said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.distributed
def test_two_processes_stop_at_the_same_step(stop_tiny, tmp_path):
    more = {"num_gpus": 2, "ACCELERATE_CONFIG": ROOT / "configs/accelerate/cpu.yaml"}
    code, said = stop_tiny(tmp_path / "run", signal.SIGUSR1, **more)
    assert code == 75, said
    assert "Traceback" not in said
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (1, False)])
def test_the_batch_script_queues_again_after_a_stop_alone(tmp_path, code, requeued):
    """With stand-ins for Slurm's commands, and a launcher that ends with the code."""
    (tmp_path / "train_stage1.sh").write_text(f'echo "$MACHINE_RANK $num_gpus $*" > called\nexit {code}\n')
    for name, text in {
        "scontrol": 'echo "$*" >> scontrol.log; [[ $1 != show ]] || echo node1',
        "srun": 'SLURM_PROCID=0 "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    script = ROOT / "configs/accelerate/multi_node.sbatch"
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment)
    assert done.returncode == code
    assert (tmp_path / "called").read_text() == "0 16 resume=latest\n"
    assert ("requeue 7" in (tmp_path / "scontrol.log").read_text()) == requeued


def test_changed_settings_are_listed_and_need_a_word(tiny, tmp_path):
    tiny(tmp_path, lr=1e-4)
    shutil.rmtree(tmp_path / "final")
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000004")
    refused = tiny(tmp_path, "resume=latest", lr=2e-4, num_steps=6)
    assert refused.returncode == 2
    assert "lr was 0.0001 and is 0.0002, num_steps was 4 and is 6: give the former values" in refused.stderr
    done = tiny(tmp_path, "resume=latest", "allow_changes=true", lr=2e-4, num_steps=6)
    assert done.returncode == 0, done.stderr
    assert "allow_changes=true: lr was 0.0001 and is 0.0002\n" in done.stderr
    assert "step 6/6" in done.stderr


def test_a_finished_run_is_left_as_it_is(tiny, tmp_path):
    tiny(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = tiny(tmp_path, "resume=latest", "num_workers=1", save_step=1)
    assert again.returncode == 0
    assert again.stderr.strip() == f"the run is finished, there is nothing to do: {tmp_path / 'final'}"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    longer = tiny(tmp_path, "resume=latest", "allow_changes=true", num_steps=6)
    assert "step 6/6" in longer.stderr


HOSTILE = "\x1b]0;owned\x07\x1b[2K.png"


def test_control_characters_of_a_file_name_reach_no_terminal(tiny, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / HOSTILE).write_bytes(b"none")
    said = [tiny(tmp_path / "run", "max_bad_share=0", train_dataset_path=images, val_dataset_path=images)]
    for call in (["caption", str(images)], ["data", "inspect", str(images)]):
        command = [sys.executable, "-m", "vlv", *call]
        said.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True))
    for done in said:
        assert not set(done.stdout + done.stderr) & set("\x1b\x07"), done
    assert [r"\x1b]0;owned\x07" in done.stdout + done.stderr for done in said] == [True, False, True]
