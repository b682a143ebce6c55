"""The machine that a measurement is of."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from vlv.training.precision import product_rate, torch_dtype

_SIDE = 2048  # of the square matrices whose product measures a processor; a GPU's have four times as much


@dataclass(frozen=True)
class Machine:
    """What was measured on.

    matmul: TFLOP/s of a product of large matrices, by number format. date: YYYY-MM-DD, in UTC; empty in a file that was
    written before it was kept, as the versions of transformers and diffusers are.
    """

    processor: str
    cores: int
    threads: int
    device: str
    memory_gib: float
    torch: str
    python: str
    commit: str
    matmul: dict[str, float]
    transformers: str = ""
    diffusers: str = ""
    date: str = ""

    @property
    def title(self) -> str:
        """One line about it."""
        name = self.processor if self.device == "cpu" else self.device
        rates = ", ".join(f"{rate:.3f} TFLOP/s in {number}" for number, rate in self.matmul.items())
        product = f"; a matrix product does {rates}" if rates else ""
        versions = [("torch", self.torch), ("transformers", self.transformers), ("diffusers", self.diffusers)]
        of = ", ".join(f"{package} {number}" for package, number in versions if number)
        when = f", {self.date}" if self.date else ""
        return f"{name}, {self.cores} cores, {self.threads} threads, {of}{when}{product}"


def describe_machine(precisions: Sequence[str]) -> Machine:
    """This machine, with its matrix products in some number formats."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        torch=torch.__version__,
        python=platform.python_version(),
        commit=_commit(),
        matmul={precision: _rate(precision) for precision in precisions},
        transformers=version("transformers"),
        diffusers=version("diffusers"),
        date=datetime.now(UTC).date().isoformat(),
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """Of the source that is measured; empty where it is no checkout."""
    call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _rate(precision: str) -> float:
    """TFLOP/s of a product of two large square matrices."""
    on_gpu = torch.cuda.is_available()
    return product_rate(torch_dtype(precision), 4 * _SIDE if on_gpu else _SIDE, "cuda" if on_gpu else "cpu")
