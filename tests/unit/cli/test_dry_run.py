"""The memory that a dry run tells, on sizes that can be counted by hand."""

import pytest
import torch

from vlv.cli.dry_run import memory_estimate


@pytest.fixture
def objective():
    model = torch.nn.ModuleList([torch.nn.Linear(1024, 1024, bias=False), torch.nn.Linear(1024, 1024, bias=False)])
    model[1].requires_grad_(False).bfloat16()
    model[1].register_buffer("table", torch.zeros(512, 512))  # 1 MiB, of each process whatever is shared
    return model


@pytest.mark.parametrize(
    ("averaged", "parallelism", "expected"),
    [
        (False, "", [4, 4, 8, 2, 1]),
        (True, "MULTI_GPU", [4, 4, 8, 2, 4, 1]),
        (False, "FSDP", [0.5, 0.5, 1, 0.25, 1]),
        (False, "DEEPSPEED", [4, 0.5, 1, 2, 1]),
    ],
)
def test_memory_counts_weights_gradients_moments_and_what_is_shared(objective, averaged, parallelism, expected):
    parts = memory_estimate(objective, averaged, parallelism, num_processes=8)
    assert [size * 1024 for size in parts.values()] == expected
