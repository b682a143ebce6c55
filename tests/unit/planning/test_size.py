"""The memory that a dry run reports, on sizes that can be counted by hand."""

import pytest
import torch

from vlv.planning.size import memory_estimate, readable


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
    assert [size / 2**20 for size in parts.values()] == expected


def test_sizes_are_in_the_unit_that_fits():
    sizes = (17, 3 << 9, 5 << 19, 3 << 30)
    assert [readable(size) for size in sizes] == ["17 B", "1.5 KiB", "2.5 MiB", "3.00 GiB"]
