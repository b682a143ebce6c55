"""Loader workers of a process, and the seed of its dropout."""

import os
import subprocess
import sys

import pytest
import torch

from vlv.training.processes import loader_workers, seed_step


def test_dropout_can_be_seeded_by_any_seed_that_the_setting_takes():
    masks = []
    for seed in (42, 5_000_000_000, 2**63 + 1):
        seed_step(seed, 7, 1)
        masks.append(torch.rand(4).tolist())
    assert len({tuple(mask) for mask in masks}) == 3


@pytest.mark.parametrize(("wanted", "cores", "processes", "taken"), [(8, 2, 1, 2), (8, 8, 2, 4), (1, 8, 2, 1),
                                                                     (4, 2, 4, 1), (0, 2, 1, 0)])  # fmt: skip
def test_loader_workers_share_a_cpus_cores_with_the_model(monkeypatch, wanted, cores, processes, taken):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers(wanted) == taken
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert loader_workers(wanted) == wanted, "beside a GPU the cores are theirs"


@pytest.mark.distributed
def test_processes_in_different_number_formats_are_refused(tmp_path):
    script = tmp_path / "join.py"
    script.write_text(
        "import os\n"
        "from vlv.training.processes import start_processes\n"
        "start_processes('bf16' if os.environ['RANK'] == '1' else 'fp32')\n"
    )
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(call, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True)
    assert done.returncode
    assert "chose different number formats (bf16, fp32): set precision" in done.stderr
