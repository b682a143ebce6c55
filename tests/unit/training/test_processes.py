"""Number formats by machine."""

import pytest
import torch

from vlv.training.processes import fastest_precision, loader_workers, resolve_precision, seed_step


@pytest.mark.parametrize(
    ("capabilities", "fastest"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({}, "fp32"),
    ],
)
def test_a_cpu_trains_in_bf16_only_where_it_has_it(monkeypatch, caplog, capabilities, fastest):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fastest_precision() == fastest
    assert resolve_precision("auto") == "fp32", "what is computed does not hang on the CPU's make unless asked for"
    assert resolve_precision("bf16") == "bf16"
    assert ("set precision=fp32" in caplog.text) == (fastest == "fp32")


def test_a_gpu_decides_by_itself(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert fastest_precision() == "auto"
    assert resolve_precision("auto") == "fp16"


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
