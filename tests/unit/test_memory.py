"""Running out of memory is one line with the fix, wherever it happens."""

import pytest
import torch

from vlv.cli.entry import error_line
from vlv.inference.processes import explain_out_of_memory
from vlv.memory import is_out_of_memory

ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried")
SHORTAGES = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError(), ON_CPU]


def test_torchs_own_error_on_the_cpu_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize("error", SHORTAGES, ids=["gpu", "python", "cpu"])
def test_it_is_told_with_the_fix(error):
    assert is_out_of_memory(error)
    with (
        pytest.raises(ValueError, match=r"out of memory \(.+\): set batch_size below 8"),
        explain_out_of_memory("set batch_size below 8"),
    ):
        raise error
    assert error_line(error).startswith("out of memory before the first batch (")


def test_other_errors_stay_as_they_are():
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory("x"):
        raise RuntimeError("shapes do not fit")
