"""Number formats of a computation: what this machine has, which one `precision=auto` takes on it, and why."""

from __future__ import annotations

import logging
import os
import time
from typing import NamedTuple

import torch

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Bytes of weights from which on bf16 may be taken on a CPU. Smaller models gain little: a step is the calls of many
# operators more than their sums, and what they compute should be the same on every machine.
LARGE = 200 * 2**20
_SIDE = 1024  # of the square matrices whose product decides
_GAIN = 1.5  # by how much bf16 must be faster; where a CPU has it, it was two to eight times on those measured


class Choice(NamedTuple):
    """A number format, and why it was chosen."""

    precision: str
    reason: str


def choose_precision(weights: int) -> Choice:
    """What `precision=auto` is here: bf16 on a GPU that has it, fp16 on an older one.

    On a CPU it is fp32, but bf16 for large models where instructions for it are measured to be faster.

    Args:
        weights: bytes of the weights that are computed with.
    """
    if on_gpu():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice("bf16", "the GPU has it") if has_bf16 else Choice("fp16", "this GPU has no bf16")
    if not cpu_has_bf16():
        return Choice("fp32", "this CPU has no instructions for bf16")
    if weights < LARGE:
        return Choice("fp32", "a model this small gains nothing from bf16 on a CPU")
    fp32, bf16 = (product_rate(dtype, _SIDE) for dtype in (torch.float32, torch.bfloat16))
    measured = f"a matrix product does {bf16:.2g} TFLOP/s in bf16 and {fp32:.2g} in fp32 on this CPU"
    return Choice("bf16" if bf16 >= _GAIN * fp32 else "fp32", measured)


def check_precision(precision: str) -> str:
    """A number format that was asked for, with a warning where it is slow here.

    Raises:
        ValueError: fp16 without a GPU.
    """
    if precision == "bf16" and not on_gpu() and not cpu_has_bf16():
        _log.warning("this CPU has no bf16 of its own and is many times slower in it than in fp32: set precision=fp32")
    if precision == "fp16" and not on_gpu():
        raise ValueError("precision=fp16 needs a GPU: set precision=bf16 or fp32")
    return precision


def fastest_precision() -> str:
    """The setting of `precision` that trains fastest here: auto on a GPU, bf16 on a CPU that has it, fp32 on others."""
    return "auto" if on_gpu() else "bf16" if cpu_has_bf16() else "fp32"


def on_gpu() -> bool:
    """Whether this run computes on a GPU."""
    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16: avx512_bf16, amx_bf16, or an ARM's."""
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def torch_dtype(precision: str) -> torch.dtype:
    """The dtype of a resolved precision."""
    return _DTYPES[precision]


def product_rate(dtype: torch.dtype, side: int, device: str = "cpu", repetitions: int = 6) -> float:
    """TFLOP/s of a product of two square matrices: the best of some, as the machine may do something else."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")  # the first one also reserves memory and chooses a kernel
    for _ in range(repetitions):
        started = time.perf_counter()
        torch.matmul(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12
